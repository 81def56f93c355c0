"""95% intervals: of a share by Wilson, of anything else by resampling; and of two models' paired difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Z95 = 1.959963984540054
"""Two-sided 95% quantile of the normal distribution."""
RESAMPLES = 1000


def wilson_interval(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Confidence interval of a share, Wilson's score interval (Wilson 1927, JASA 22, eq. 4; no continuity correction).

    Unlike the usual plus-minus it stays in [0, 1] and has a width at 0% and 100%. No observations: (0, 1).
    """
    if not 0 <= correct <= total:
        raise ValueError(f"need 0 <= correct <= total, got {correct} of {total}")
    if total == 0:
        return 0.0, 1.0
    share, square = correct / total, z * z
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = z / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total * total))
    # At the ends the bound is exactly 0 or 1; rounding must not say otherwise.
    return (0.0 if correct == 0 else centre - half), (1.0 if correct == total else centre + half)


def bootstrap_interval(
    units: Tensor, statistic: Callable[[Tensor, Tensor], float], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979) over units, which are drawn whole: questions, or groups that belong together.

    Args:
        units: [N] int64, the unit of each row.
        statistic: (rows [M], copies [M]) int64 -> the score of a sample; `copies` tells draws of one unit apart.
        resamples, seed: how many samples, and of which generator.
    """
    _, unit = units.unique(return_inverse=True)
    order, sizes = unit.argsort(stable=True), unit.bincount()
    starts = sizes.cumsum(0) - sizes
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(resamples):
        drawn = torch.randint(len(sizes), (len(sizes),), generator=generator)
        length = sizes[drawn]
        within = torch.arange(int(length.sum())) - (length.cumsum(0) - length).repeat_interleave(length)
        rows = order[starts[drawn].repeat_interleave(length) + within]
        found.append(statistic(rows, torch.arange(len(drawn)).repeat_interleave(length)))
    values = torch.tensor(found, dtype=torch.float64)
    values = values[values.isfinite()]
    if not len(values):
        return math.nan, math.nan
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Mean of `second - first` over questions that both models answered, and its 95% bootstrap interval."""
    if len(first) != len(second) or not first:
        raise ValueError(
            f"a paired difference needs as many grades of one as of the other, got {len(first)}, {len(second)}"
        )
    gain = torch.tensor(second, dtype=torch.float64) - torch.tensor(first, dtype=torch.float64)
    low, high = bootstrap_interval(torch.arange(len(gain)), lambda rows, _: float(gain[rows].mean()))
    return float(gain.mean()), low, high
