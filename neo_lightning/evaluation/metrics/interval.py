"""95% intervals: of a share by Wilson, of anything else by resampling; and of two models' paired difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
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
    _, unit, sizes = np.unique(units.numpy(), return_inverse=True, return_counts=True)
    order, starts = np.argsort(unit, kind="stable"), np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)
    found = np.empty(resamples)
    with _one_thread():
        for sample in range(resamples):
            drawn = generator.integers(len(sizes), size=len(sizes))
            length = sizes[drawn]
            within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
            rows = order[np.repeat(starts[drawn], length) + within]
            copies = np.repeat(np.arange(len(drawn)), length)
            found[sample] = statistic(torch.from_numpy(rows), torch.from_numpy(copies))
    return _middle(found)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of small sums: where cores are shared, threads that wait for each other take a hundred times longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def bootstrap_mean(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The same of a mean over values that belong to nothing larger."""
    array, generator = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    return _middle(np.array([array[generator.integers(len(array), size=len(array))].mean() for _ in range(resamples)]))


def _middle(found: np.ndarray) -> tuple[float, float]:
    """The middle 95% of scores, those that are no number left out."""
    finite = found[np.isfinite(found)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def paired_difference(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Mean of `second - first` over questions that both models answered, and its 95% bootstrap interval."""
    if len(first) != len(second) or not first:
        raise ValueError(
            f"a paired difference needs as many grades of one as of the other, got {len(first)}, {len(second)}"
        )
    gain = np.asarray(second, dtype=np.float64) - np.asarray(first, dtype=np.float64)
    return float(gain.mean()), *bootstrap_mean(gain.tolist())
