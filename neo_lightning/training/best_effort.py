"""Writing that a run can do without: where the disk is full it goes on, says so once, and says when it works again."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class BestEffort:
    """Attempts to write one thing, again and again."""

    def __init__(self, what: str) -> None:
        """Args: `what` is written, as people are told."""
        self.what = what
        self.failing = False
        """The last attempt failed."""
        self.dropped = 0
        """Lines given up since attempts fail; the writer counts them."""

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Write in this block; an OSError ends the block alone."""
        try:
            yield
        except OSError as error:
            if not self.failing:
                self._tell(f"cannot be written ({error.strerror or error}); the run goes on and tries again")
            self.failing = True
            return
        if self.failing:
            self._tell(f"is written again; {f'{self.dropped:,} lines are lost' if self.dropped else 'nothing is lost'}")
        self.failing, self.dropped = False, 0

    def end(self, kept_back: int = 0) -> None:
        """At the end of a run: say what it did not get written, `kept_back` lines among them."""
        if self.failing:
            self._tell(f"could not be written to the end: {self.dropped + kept_back:,} lines are lost")

    def _tell(self, news: str) -> None:
        print(f"warning: {self.what} {news}", file=sys.stderr, flush=True)
