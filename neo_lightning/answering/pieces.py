"""Text of a stream of tokens, as it comes: characters whole, and nothing of a text that ends the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence


class Pieces:
    """Text of a stream of tokens, piece by piece; a character is held back until all of its bytes are there.

    Only the tokens since the last pieces are decoded again, so that the work grows with the answer and not with its
    square; the tokens of one piece in front of them are decoded with them, as a decoder may treat its first token
    otherwise than the others.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        """Tokens of the last piece, and behind them those that are not shown yet."""
        self._shown = 0
        """How many of them are."""

    def add(self, token: int) -> str:
        """The text that the next token completes; often empty."""
        self._ids.append(token)
        piece = self.rest()
        if not piece or piece.endswith("\ufffd"):
            return ""
        self._ids, self._shown = self._ids[self._shown :], len(self._ids) - self._shown
        return piece

    def rest(self) -> str:
        """What is left at the end: an unfinished character is shown as such."""
        return self._decode(self._ids)[len(self._decode(self._ids[: self._shown])) :]


class Stops:
    """Holds back what may be the beginning of a text that ends the answer."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts, self._held = [text for text in texts if text], ""
        self.found = False
        """Whether one has been met; nothing is shown from there on."""

    def add(self, piece: str) -> str:
        """What can be shown now."""
        if not self._texts or self.found:
            return "" if self.found else piece
        self._held += piece
        places = [place for text in self._texts if (place := self._held.find(text)) >= 0]
        if places:
            self.found = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        kept = max(_begun(self._held, text) for text in self._texts)
        at = len(self._held) - kept
        shown, self._held = self._held[:at], self._held[at:]
        return shown

    def rest(self) -> str:
        """What was held back in vain."""
        shown, self._held = self._held, ""
        return shown


def _begun(said: str, text: str) -> int:
    """The longest end of `said` with which `text` begins, in characters."""
    return next((n for n in range(min(len(said), len(text) - 1), 0, -1) if said.endswith(text[:n])), 0)
