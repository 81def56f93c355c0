"""Token ids and anybody's strings -> text that shows every character, and does nothing else.

A token is shown by itself: spaces stay, line feeds are marked, and what would be invisible or turn the page around
(controls, bidirectional overrides, zero-width characters) is spelt out. A token that is part of a character is shown
as its bytes.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from html import escape

from neo_lightning.data.text.tokenizer import Tokenizer

_MARKED = {"\n": "↵\n", "\t": "⇥\t", " ": " "}


def visible(text: str) -> str:
    """The text with its hidden characters spelt out."""
    return "".join(map(_visible, text))


def plain(text: str) -> str:
    """HTML of a text, hidden characters spelt out."""
    return escape(visible(text))


@cache
def _visible(character: str) -> str:
    if character in _MARKED:
        return _MARKED[character]
    hidden = unicodedata.category(character)[0] in "CZ"
    return f"‹U+{ord(character):04X}›" if hidden else character


class Words:
    """HTML of tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._backend = tokenizer.backend
        self._known: dict[int, str] = {}
        self.special = frozenset(tokenizer.special.values())
        """Ids of special tokens."""

    def html(self, token: int) -> str:
        """HTML of one token's text."""
        if token not in self._known:
            self._known[token] = plain(self._text(token))
        return self._known[token]

    def _text(self, token: int) -> str:
        spelt = self._backend.id_to_token(token)
        if spelt is None:
            return f"‹no token {token}›"
        if token in self.special or any(character not in _bytes() for character in spelt):
            return spelt
        data = bytes(_bytes()[character] for character in spelt)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return f"‹{data.hex(' ')}›"


@cache
def _bytes() -> dict[str, int]:
    """Character of the byte-level alphabet -> byte (GPT-2's `bytes_to_unicode`).

    Printable Latin-1 characters stand for themselves, all others for the characters from 256 on, in order.
    """
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
