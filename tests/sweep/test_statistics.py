"""Differences of few pairs, against values worked out by hand and by brute force."""

from __future__ import annotations

import math
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from neo_lightning.sweep.statistics import mean_interval, paired

GAINS = st.lists(st.floats(-10, 10, allow_nan=False).map(lambda x: round(x, 3)), min_size=1, max_size=8)


def test_the_interval_of_five_numbers_is_students() -> None:
    # mean 3, standard deviation sqrt(2.5), t(4) = 2.776
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776 * math.sqrt(2.5) / math.sqrt(5)
    assert (mean, low, high) == pytest.approx((3.0, 3 - half, 3 + half))
    assert mean_interval([7.0]) == (7.0, -math.inf, math.inf)
    with pytest.raises(ValueError, match="no numbers"):
        mean_interval([])


def test_many_seeds_take_what_lies_beyond_the_table() -> None:
    """Within 0.2% of Student's t: 2.0395 with 31 degrees of freedom, 2.0003 with 60."""
    for n, quantile in ((32, 2.0395), (61, 2.0003)):
        values = [1.0, -1.0] * (n // 2) + [0.0] * (n % 2)
        deviation = math.sqrt(2 * (n // 2) / (n - 1))
        assert mean_interval(values)[2] == pytest.approx(quantile * deviation / math.sqrt(n), rel=2e-3)


def test_all_seeds_on_one_side_are_as_significant_as_their_number_allows() -> None:
    for n in range(1, 8):
        found = paired([2.0 + i for i in range(n)], [1.0] * n)
        assert found.p == pytest.approx(2.0 ** (1 - n))
        assert found.pairs == n
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1.0


@given(gains=GAINS)
def test_p_is_the_share_of_signs_that_are_as_far(gains: list[float]) -> None:
    found = paired(gains, [0.0] * len(gains))
    sums = [abs(sum(s * g for s, g in zip(signs, gains, strict=True))) for signs in product((1, -1), repeat=len(gains))]
    far = sum(s >= abs(sum(gains)) - 1e-9 for s in sums) / len(sums)
    assert found.p == pytest.approx(far)
    assert paired([-g for g in gains], [0.0] * len(gains)).p == found.p


def test_what_is_no_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="found 2 and 1 numbers"):
        paired([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="1 to 20 pairs"):
        paired([], [])
