"""Integer arrays of a row -> a few characters that the page's script unfolds.

Positions and bounds are made of arithmetic runs: t grows by one through a text and stands still in an image, w counts
up along each row of it. So a row's array is written as `first,step,count;...`, exactly, at a hundredth of its size.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def pack_runs(values: Tensor) -> str:
    """[n] integers as arithmetic runs `first,step,count;...`, each as long as it can be."""
    array = values.cpu().numpy().astype(np.int64)
    steps = np.diff(array)
    changes = np.flatnonzero(np.diff(steps)) + 1  # places of `steps` where another step begins
    parts = []
    at = 0
    while at < len(array):
        if at == len(array) - 1:
            parts.append(f"{array[at]},0,1")
            break
        after = np.searchsorted(changes, at, side="right")
        last = int(changes[after]) if after < len(changes) else len(steps)
        parts.append(f"{array[at]},{steps[at]},{last - at + 1}")
        at = last + 1
    return ";".join(parts)
