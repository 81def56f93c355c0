"""Who is lost, told from what was heard; real ranks are in `tests/faults/test_hangs.py`."""

from __future__ import annotations

from typing import Any

import pytest

from neo_lightning.training.beats import Beat, Heard, compare, hung, silent, tell_hung, tell_silent


def beat(rank: int, step: int = 7, phase: str = "step", seconds: float = 100, **others: Any) -> Beat:
    fields: dict[str, Any] = {"host": f"h{rank}", "number": 1, "allowed": 60, "waiting": True, "where": "x.py:1 (f)"}
    return Beat(rank=rank, step=step, phase=phase, seconds=seconds, **{**fields, "steps": 3, "busy": 0.5, **others})


def heard(*beats: Beat, at: float = 0) -> dict[int, Heard]:
    return {beat.rank: Heard(beat, at) for beat in beats}


def test_a_beat_travels_whole() -> None:
    sent = beat(3, words="why", status=1, allowed=float("inf"))
    assert Beat.unpack(sent.pack().encode()) == sent


@pytest.mark.parametrize(
    ("beats", "lost"),
    [
        ([beat(0), beat(1), beat(2, waiting=False)], [2]),  # the others wait for it in a collective
        ([beat(0), beat(1)], [0, 1]),  # all wait: their collectives do not match
        ([beat(0), beat(1, phase="data", allowed=1200, waiting=False)], []),  # a slow store
        ([beat(0), beat(1, phase="data", seconds=1300, allowed=1200, waiting=False)], [1]),
        ([beat(0), beat(1, phase="save", allowed=7200)], []),  # between two steps
        ([beat(0), beat(1, step=6, waiting=False)], [1]),  # a step behind
        ([beat(0, seconds=9), beat(1, waiting=False)], []),  # it was let go on a moment ago
        ([beat(0, phase="ended"), beat(1, waiting=False)], [1]),
        ([beat(0, phase="ended"), beat(1, phase="ended")], []),
    ],
)
def test_only_who_holds_up_all_others_hangs(beats: list[Beat], lost: list[int]) -> None:
    assert [beat.rank for beat in hung(heard(*beats))] == lost


def test_the_silent_are_named_longest_first() -> None:
    known = {**heard(beat(0), at=50), **heard(beat(1), at=20), **heard(beat(2, phase="ended")), **heard(beat(3), at=10)}
    gone = silent(known, 51, 30)
    assert [beat.rank for beat in gone] == [3, 1]
    said = tell_silent(gone, 41)
    assert said.startswith("rank 3 (h3) has given no sign of life for 41 s, last seen in step 7, phase step (likewise ")
    assert "rank 1 (h1))" in said
    many = tell_hung([beat(rank) for rank in range(20)])
    assert many.startswith("rank 0 (h0) waits in a collective in step 7, phase step for 100 s, where 60 s are allowed")
    assert "8 (h8) and 11 more)" in many


def test_the_slowest_rank_is_the_one_with_most_work_a_step() -> None:
    before = {rank: beat(rank, steps=10, busy=1.0) for rank in range(4)}
    now = {rank: beat(rank, steps=20, busy=1.0 + work) for rank, work in enumerate((5, 4, 9, 6))}
    slowest, seconds, others = compare(before, now)
    assert (slowest.rank, seconds, others) == (2, pytest.approx(0.9), pytest.approx(0.5))
