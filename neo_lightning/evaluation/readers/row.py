"""What a reader gives: one row of a file, its media still unread; or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...data.facts import SampleError
from ...types import Media, Message
from ..item import Item, no_media


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row."""

    key: str
    """Unique within the file."""
    where: str
    """File and row, for messages."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Column -> text, number or list."""
    messages: tuple[Message, ...] = ()
    """Of a held-out conversation: all turns, the right answer last."""
    media: Callable[[], tuple[Media, ...]] = no_media
    """Reads the media; see `Item.media`."""


@dataclass(frozen=True, kw_only=True)
class Unread:
    """A row that cannot be used."""

    key: str
    where: str
    reason: str


class Rows(Protocol):
    """A file of rows, or a source of conversations."""

    digest: str
    """SHA-256 of the content."""

    def __len__(self) -> int:
        """Rows, those that cannot be read among them."""

    def __iter__(self) -> Iterator[Row | Unread]:
        """All rows in the file's order. Memory does not grow with the file."""


def conversation_item(row: Row, number: int) -> Item:
    """A held-out conversation as a question: everything before its last answer, which is the right one.

    Its `meta` gives the category (`task`) and the options, where there are some.

    Raises:
        SampleError: the last turn is not the assistant's, or nothing stands before it.
    """
    *asked, last = row.messages
    if last.role != "assistant" or not asked or asked[-1].role != "user":
        raise SampleError("a question ends with the user's turn and, behind it, the right answer of the assistant")
    task = row.fields.get("task")
    options = row.fields.get("options")
    return Item(
        key=row.key,
        number=number,
        where=row.where,
        question="".join(part for part in asked[-1].parts if isinstance(part, str)).strip(),
        answers=("".join(part for part in last.parts if isinstance(part, str)).strip(),),
        options={str(k): str(v) for k, v in options.items()} if isinstance(options, Mapping) else {},
        categories=(str(task),) if task else (),
        fields={name: str(value) for name, value in row.fields.items()},
        messages=tuple(asked),
    )
