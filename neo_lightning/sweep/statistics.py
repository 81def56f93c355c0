"""Numbers of two arms, paired by seed -> their mean difference, its interval, and a test.

Runs of one seed share their data and, name by name, their first weights; what a seed does to both falls out of the
difference. With few seeds nothing can be significant: of n pairs the sign-flip test's smallest p is 2^(1-n).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import fmean, stdev

# 97.5% points of Student's t with 1 to 30 degrees of freedom
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
MOST_PAIRS = 20
"""2^20 signs are all tried; more seeds than that nobody trains."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of an arm and the baseline."""

    mean: float
    """Arm - baseline."""
    interval: tuple[float, float]
    """95%, by Student's t; infinite with one pair."""
    p: float
    """Two-sided sign-flip test: the share of all choices of signs whose mean is as far from 0."""
    pairs: int


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of numbers and its 95% interval by Student's t; infinite with one number.

    Raises:
        ValueError: no numbers.
    """
    if not values:
        raise ValueError("the mean of no numbers")
    mean, n = fmean(values), len(values)
    if n == 1:
        return mean, -math.inf, math.inf
    quantile = _T[n - 2] if n - 2 < len(_T) else 1.96 + 2.4 / (n - 1)
    half = quantile * stdev(values) / math.sqrt(n)
    return mean, mean - half, mean + half


def paired(arm: Sequence[float], baseline: Sequence[float]) -> Difference:
    """The difference of two arms whose numbers stand in the order of the same seeds.

    Raises:
        ValueError: they are not as many, none, or more than can be tested exactly.
    """
    if len(arm) != len(baseline) or not 1 <= len(arm) <= MOST_PAIRS:
        raise ValueError(f"need 1 to {MOST_PAIRS} pairs, found {len(arm)} and {len(baseline)} numbers")
    gains = [a - b for a, b in zip(arm, baseline, strict=True)]
    mean, low, high = mean_interval(gains)
    # rounding must not make the observed signs less extreme than themselves
    seen = abs(sum(gains)) - 1e-12 * sum(map(abs, gains))
    signs = product((1, -1), repeat=len(gains) - 1)  # the other half is their mirror image
    far = [abs(gains[0] + sum(s * g for s, g in zip(row, gains[1:], strict=True))) >= seen for row in signs]
    return Difference(mean=mean, interval=(low, high), p=sum(far) / len(far), pairs=len(gains))
