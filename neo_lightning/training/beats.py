"""What ranks tell each other of themselves, and who is lost: a pure function of what was heard and when.

A rank is lost when it is silent (dead, frozen, cut off), or when it beats and stays in one phase for longer than it
allows itself (it hangs). A rank that waits for another in a collective is as long in its phase as the one it waits for,
so only those are judged that are behind all others; among them, one that is itself in no collective holds up the rest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from statistics import median_high

from neo_lightning.exits import RANK_LOST
from neo_lightning.training.phases import BETWEEN, ENDED, ORDER


@dataclass(frozen=True, kw_only=True)
class Beat:
    """One sign of life."""

    rank: int
    host: str
    number: int
    """So that no two are equal."""
    step: int
    """Steps done when the phase began."""
    phase: str
    seconds: float
    """In the phase."""
    allowed: float
    """Seconds that the phase may take."""
    waiting: bool
    """In a collective."""
    where: str
    """Innermost line of the training thread that is neither torch's nor Lightning's."""
    steps: int
    """Done in this process."""
    busy: float
    """Seconds of work in them; see `Monitor.slowest`."""
    words: str = ""
    """Last words: why this rank ends before the others know."""
    status: int = 0
    """Exit status that goes with them."""

    def pack(self) -> str:
        return json.dumps(astuple(self))

    @classmethod
    def unpack(cls, text: bytes) -> Beat:
        return cls(**dict(zip(cls.__dataclass_fields__, json.loads(text), strict=True)))

    @property
    def place(self) -> str:
        """For people: where the rank was."""
        return f"step {self.step}, phase {self.phase}"

    @property
    def name(self) -> str:
        """For people: who it is."""
        return f"rank {self.rank} ({self.host})"


@dataclass(frozen=True)
class Heard:
    """A rank's last beat and when it came, by the clock of the one who heard it."""

    beat: Beat
    at: float


def silent(heard: Mapping[int, Heard], now: float, silence: float) -> list[Beat]:
    """Last beats of the ranks of which nothing was heard for longer than `silence` seconds; longest first."""
    gone = [h for h in heard.values() if h.beat.phase != ENDED and now - h.at > silence]
    return [h.beat for h in sorted(gone, key=lambda h: h.at)]


def hung(heard: Mapping[int, Heard]) -> list[Beat]:
    """Beats of the ranks that hold up all others for longer than they may."""
    beats = [h.beat for h in heard.values() if h.beat.phase != ENDED]
    if not beats:
        return []
    last = min(map(_progress, beats))
    behind = [beat for beat in beats if _progress(beat) == last]
    if any(beat.seconds <= beat.allowed for beat in behind):
        return []
    return [beat for beat in behind if not beat.waiting] or behind


def _progress(beat: Beat) -> tuple[int, int]:
    return beat.step, ORDER.get(beat.phase, BETWEEN)


def compare(before: Mapping[int, Beat], now: Mapping[int, Beat]) -> tuple[Beat, float, float]:
    """The rank with most work a step between two times: its beat, its seconds a step, and the median of the others'."""
    rates = {r: (beat.busy - before[r].busy) / (beat.steps - before[r].steps) for r, beat in now.items()}
    slowest = max(rates, key=lambda rank: rates[rank])
    return now[slowest], rates[slowest], median_high(rate for rank, rate in rates.items() if rank != slowest)


def last_words(others: Sequence[Heard]) -> tuple[str, int] | None:
    """Why a rank has ended before this one, and its exit status."""
    spoken = [heard.beat for heard in others if heard.beat.words]
    if not spoken:
        return None
    words, status = spoken[0].words, spoken[0].status
    return (words if status == RANK_LOST else f"{spoken[0].name} has ended in {spoken[0].place}: {words}"), status


def tell_silent(beats: Sequence[Beat], seconds: float) -> str:
    """One line about silent ranks."""
    first = beats[0]
    return (
        f"{first.name} has given no sign of life for {seconds:.0f} s, last seen in {first.place}{_others(beats)}: "
        "dead, frozen, or its network is cut"
    )


def tell_hung(beats: Sequence[Beat]) -> str:
    """One line about ranks that hang."""
    first = beats[0]
    doing = "waits in a collective" if first.waiting else "hangs"
    return (
        f"{first.name} {doing} in {first.place} for {first.seconds:.0f} s, where {first.allowed:.0f} s are allowed, "
        f"at {first.where}{_others(beats)}"
    )


def _others(beats: Sequence[Beat]) -> str:
    names = [f"{beat.rank} ({beat.host})" for beat in beats[1:9]]
    more = f" and {len(beats) - 9} more" if len(beats) > 9 else ""
    return f" (likewise rank {', '.join(names)}{more})" if names else ""
