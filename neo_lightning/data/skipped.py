"""Samples that take no part or were shrunk, from those who find them to whoever lists them; a bounded number waits.

The index and the plan find them, the plan in a thread of its own; a callback takes them after every step and writes
them to a file. Where nobody takes them, the first are kept and the others counted.
"""

from __future__ import annotations

from collections import deque

KEPT = 100_000
"""Entries that wait at most: about 30 MB."""


class Skipped:
    """(`source/key`, reason) of samples, in the order in which they were found."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, str]] = deque()
        self._more = 0

    def add(self, sample: str, reason: str) -> None:
        """From any thread."""
        if len(self._waiting) < KEPT:
            self._waiting.append((sample, reason))
        else:
            self._more += 1

    def take(self) -> list[tuple[str, str]]:
        """What was added since the last time."""
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        if more := self._more:
            self._more -= more
            taken.append(("further samples", f"{more:,} more, over the {KEPT:,} that are listed at a time"))
        return taken
