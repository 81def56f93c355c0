"""Which tokens an answer may use: their names in its text become marks, which are one id each.

A source of a manifest names groups of them (`answer_tokens`). Only the exact names count, only in an assistant's turn;
the same names in anybody else's text, and all other special tokens in any text, stay characters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

from neo_lightning.data.facts import Turn
from neo_lightning.types import Mark, Message

ANSWER_TOKENS = {name: (f"<{name}>", f"</{name}>") for name in ("think", "tool_call", "ref", "box", "quad")}
"""Qwen3's tokens of thinking and tools, and NEO's of grounding, by group."""

DEFAULT_ANSWER_TOKENS = ("think", "tool_call")

MARKS = frozenset(token for pair in ANSWER_TOKENS.values() for token in pair) | {"<tool_response>", "</tool_response>"}
"""Names that a `Mark` can have; the chat template writes the last two."""


T = TypeVar("T", Turn, Message)


def mark_answers(turns: Sequence[T], groups: Sequence[str]) -> tuple[T, ...]:
    """The turns, or messages, with the tokens of these groups in assistants' text as marks."""
    if not groups:
        return tuple(turns)
    return tuple(replace(turn, parts=_marked(turn.parts, tuple(groups))) if _has(turn) else turn for turn in turns)


def _has(turn: Turn | Message) -> bool:
    return turn.role == "assistant" and any(isinstance(part, str) and "<" in part for part in turn.parts)


def _marked(parts: Sequence[Any], groups: tuple[str, ...]) -> tuple[Any, ...]:
    found: list[Any] = []
    for part in parts:
        if isinstance(part, Mark) or not isinstance(part, str):
            found.append(part)
        else:
            pieces = _pattern(groups).split(part)
            found += [Mark(piece) if i % 2 else piece for i, piece in enumerate(pieces) if piece]
    return tuple(found)


@cache
def _pattern(groups: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(f"({'|'.join(re.escape(token) for group in groups for token in ANSWER_TOKENS[group])})")
