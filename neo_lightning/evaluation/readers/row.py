"""What a reader gives: one row of a file, its media still unread; or the reason why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ...data.facts import SampleError, Turn
from ...types import Media, Message
from ..item import Item, no_media

KEYS = ("index", "question_id", "id")
"""Columns that name a row, the first that is there; else it is its number."""
MOST_BYTES = 256 << 20
"""Of one row."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row."""

    key: str
    where: str
    """File and row, for messages."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Column -> text, number or list; of a conversation its `meta`."""
    media: Callable[[], tuple[Media, ...]] = no_media
    """Reads the media; see `Item.media`."""
    turns: tuple[Turn, ...] = ()
    """Of a held-out conversation: all turns, the right answer last; media as numbers."""
    messages: Callable[[], tuple[Message, ...]] | None = None
    """Of a held-out conversation: reads the turns with their media."""


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A row that cannot be used."""

    key: str
    where: str
    reason: str


class Rows(Protocol):
    """A file of rows, or a source of conversations."""

    name: str
    """For people."""
    digest: str
    """SHA-256 of the content."""

    def __len__(self) -> int:
        """Rows, those that cannot be read among them."""

    def __iter__(self) -> Iterator[Row | Unread]:
        """All rows in the file's order. Memory does not grow with the file."""


class Chain:
    """Several files, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts = parts
        self.name = ", ".join(part.name for part in parts)
        self.digest = hashlib.sha256(" ".join(part.digest for part in parts).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __iter__(self) -> Iterator[Row | Unread]:
        for part in self.parts:
            yield from part


def key_of(fields: Mapping[str, Any], number: int) -> str:
    """A row's key; `number` counts rows from 0."""
    found = next((fields[name] for name in KEYS if fields.get(name) not in (None, "")), number)
    return str(int(found)) if isinstance(found, float) and found.is_integer() else str(found)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def conversation_item(row: Row, number: int) -> Item:
    """A held-out conversation as a question: everything before its last answer, which is the right one.

    Its `meta` gives the category (`task`) and the options (letter -> text), where there are some.

    Raises:
        SampleError: the last turn is not the assistant's, or nothing is asked before it.
    """
    *asked, last = row.turns
    if last.role != "assistant" or not asked or asked[-1].role != "user":
        raise SampleError("a question needs a user's turn and, behind it as the last one, the assistant's right answer")
    read, options = row.messages, row.fields.get("options")
    assert read is not None
    return Item(
        key=row.key,
        number=number,
        where=row.where,
        question=_said(asked[-1]),
        answers=(_said(last),),
        options={str(k): str(v) for k, v in options.items()} if isinstance(options, Mapping) else {},
        categories=(str(row.fields["task"]),) if row.fields.get("task") else (),
        fields={name: str(value) for name, value in row.fields.items()},
        messages=lambda: read()[:-1],
    )


def _said(turn: Turn) -> str:
    return "".join(part for part in turn.parts if isinstance(part, str)).strip()
