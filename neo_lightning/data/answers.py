"""What a store has said at the start of a job, so that each shard is asked about once and not by every rank.

    rank 0   names --all at once--> store --> Answers --text--> the other ranks, which ask nothing

Only remote shards: of local ones every machine may have its own, and asks for itself. It is the word of the start: a
shard that is replaced afterwards is noticed when it is fetched or read, as before.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

S = TypeVar("S")
T = TypeVar("T")

AT_ONCE = 32
"""Questions that are under way together: a store answers in 20-200 ms, whatever else it is asked meanwhile."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells one version of a shard from another without reading it."""

    size: int
    """Bytes."""
    tag: str
    """Time of the last change in ns, or the store's ETag."""


@dataclass(frozen=True, kw_only=True)
class Answers:
    """Filled while a store is asked."""

    found: dict[str, list[str]] = field(default_factory=dict)
    """Address or pattern -> the shards that it stands for."""
    stamps: dict[str, Stamp] = field(default_factory=dict)
    """Shard -> its stamp."""

    def to_text(self) -> str:
        """JSON."""
        stamps = {shard: [stamp.size, stamp.tag] for shard, stamp in self.stamps.items()}
        return json.dumps({"found": self.found, "stamps": stamps})

    @classmethod
    def from_text(cls, text: str) -> Answers:
        """Inverse of `to_text`."""
        content = json.loads(text)
        stamps = {shard: Stamp(size, tag) for shard, (size, tag) in content["stamps"].items()}
        return cls(found=content["found"], stamps=stamps)


def at_once(ask: Callable[[S], T], questions: Iterable[S]) -> list[T]:
    """Answers in the order of the questions; the first error in that order is raised when all have been asked."""
    queue = list(questions)
    if len(queue) < 2:
        return [ask(question) for question in queue]
    with ThreadPoolExecutor(min(AT_ONCE, len(queue))) as pool:
        return list(pool.map(ask, queue))
