"""One question of a benchmark: what readers give, what is asked, and what metrics grade.

reader --Row--> Benchmark.item --Item--> words --Message--> answers
                                   |
                                   +--> metric.update(answers, items)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..types import Media, Message


def no_media() -> tuple[Media, ...]:
    """The media of a question about text alone."""
    return ()


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question. Cheap to hold: its media are read when `media` is called."""

    key: str
    """Unique within the data."""
    number: int = 0
    """Place in the data, from 0; seeds the question's own random draws."""
    where: str = ""
    """File and row, for messages."""
    question: str = ""
    answers: tuple[str, ...]
    """What counts as right: one answer, or several of which one is enough. Of options it is the letter."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> text; empty where the question is open."""
    categories: tuple[str, ...] = ()
    """Under which its grade is counted beside the whole."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Everything else that the row says."""
    messages: Callable[[], tuple[Message, ...]] | None = None
    """Of a held-out conversation: reads what is asked, as it stands, media included."""
    media: Callable[[], tuple[Media, ...]] = no_media
    """Reads the encoded images and clips, in the order in which they are shown.

    Raises:
        SampleError: one of them cannot be read.
    """
