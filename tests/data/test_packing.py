from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neo_lightning.data.plan.packing import best_fit, best_sums, pack_rows


def fill(rows: list[list[int]], lengths: list[int], context: int) -> float:
    return sum(lengths) / (len(rows) * context)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 64), max_size=60), st.sampled_from([pack_rows, best_fit, best_sums]))
def test_every_length_has_one_row_and_no_row_overflows(lengths: list[int], pack: object) -> None:
    rows = pack(lengths, 64)  # type: ignore[operator]
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 64 for row in rows)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
@example([40, 14, 5, 5, 5, 5])  # two of four alike
def test_the_first_row_of_best_sums_is_the_best_there_is(lengths: list[int]) -> None:
    row = best_sums(lengths, 64)[0]
    longest = max(range(len(lengths)), key=lambda i: lengths[i])
    rest = [length for i, length in enumerate(lengths) if i != longest]
    sums = [sum(c) for n in range(len(rest) + 1) for c in combinations(rest, n)]
    assert sum(lengths[i] for i in row) == lengths[longest] + max(s for s in sums if s <= 64 - lengths[longest])


@pytest.mark.parametrize(
    ("context", "choices"),
    [
        (512, list(range(20, 120))),
        (16384, list(range(50, 1500))),
        (36864, list(range(50, 8000))),
    ],
)
def test_rows_are_full(context: int, choices: list[int]) -> None:
    lengths = np.random.RandomState(0).choice(choices, 64 * context // int(np.mean(choices))).tolist()
    assert fill(pack_rows(lengths, context), lengths, context) >= 0.97  # the last rows hold what is left


def test_what_cannot_fit_is_an_error() -> None:
    for lengths in ([65], [0], [3, -1]):
        with pytest.raises(ValueError, match="do not fit"):
            pack_rows(lengths, 64)
    assert pack_rows([], 64) == []
