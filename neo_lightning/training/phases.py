"""What this process is doing right now: a phase, a step, since when. Written by the training thread, read by the pulse.

    setup | data -> step -> callbacks (save, samples, evaluation within) -> data ... | validation | ending -> ended

One process trains one model at a time, so there is one of it, and who begins a phase needs no object for it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

SETUP, DATA, STEP, CALLBACKS, ENDING, ENDED = "setup", "data", "step", "callbacks", "ending", "ended"
BETWEEN = 0
"""Place in `ORDER` of every phase that is not named there: between two steps."""
ORDER = {SETUP: -1, DATA: 1, STEP: 2, ENDING: 3, ENDED: 4}
"""Which of two ranks at the same step is behind the other."""


@dataclass
class Now:
    """The current phase."""

    phase: str = SETUP
    step: int = 0
    """Steps done when the phase began."""
    since: float = field(default_factory=time.monotonic)
    """Seconds of `time.monotonic()`."""
    waiting: bool = False
    """For the device."""


NOW = Now()


def begin(phase: str, step: int | None = None) -> None:
    """From now on it is another phase, or the next turn of the same one."""
    NOW.phase, NOW.since = phase, time.monotonic()
    if step is not None:
        NOW.step = step


@contextmanager
def phase(name: str) -> Iterator[None]:
    """A phase within another one."""
    before = NOW.phase
    begin(name)
    try:
        yield
    finally:
        begin(before)


@contextmanager
def waiting() -> Iterator[None]:
    """The training thread waits for its device here, and does nothing itself."""
    NOW.waiting = True
    try:
        yield
    finally:
        NOW.waiting = False
