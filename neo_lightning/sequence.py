"""Tokens -> native (t, h, w) positions and interval bounds. Used by data (packing) and generation.

Each image or frame is one *unit*: a run of visual tokens that see each other in both directions. Text sees what came
before it. So a row of the mask is one interval [start, limit), and the mask is two integer arrays:

    token    a  b  <img> v  v  v  v  v  v  </img> c          M   a b < v v v v v v > c
    t        0  1   2    3  3  3  3  3  3    4    5          a   x
    h        0  0   0    0  0  0  1  1  1    0    0          b   x x
    w        0  0   0    0  1  2  0  1  2    0    0          <   x x x
    start    0  0   0    0  0  0  0  0  0    0    0          v   x x x x x x x x x
    limit    1  2   3    9  9  9  9  9  9   10   11          ... (six rows alike)
                                                             >   x x x x x x x x x x

Both bounds never decrease along the sequence (NEO paper, section on native RoPE and mixed attention).
"""

from __future__ import annotations

import torch
from torch import Tensor


def positions_and_limits(visual: Tensor, grids: Tensor) -> tuple[Tensor, Tensor]:
    """Positions and mask limits of one document.

    Args:
        visual: [N] bool, which tokens are visual. The units' tokens lie in reading order; two units may touch.
        grids: [I, 2] rows and columns of each unit in visual tokens.

    Returns:
        positions [N, 3] int32 (t, h, w) and limits [N] int32 (one past the last key that the token sees).

    Raises:
        ValueError: the grids do not account for exactly the visual tokens.
    """
    n = visual.numel()
    sizes = grids.long().prod(-1)
    total = int(sizes.sum())
    place = visual.nonzero().squeeze(-1)
    if total != place.numel() or bool((sizes < 1).any()):
        raise ValueError(f"{place.numel()} visual tokens, but the image grids hold {total}")
    step = (~visual).long()
    limit = torch.arange(1, n + 1)
    hw = torch.zeros(n, 2, dtype=torch.long)
    if total:
        unit = torch.repeat_interleave(torch.arange(sizes.numel()), sizes)  # [V] unit of each visual token
        first = sizes.cumsum(0) - sizes  # [I] index of the unit's first visual token
        if not torch.equal(place, place[first][unit] + torch.arange(total) - first[unit]):
            raise ValueError("the visual tokens of an image do not lie together")
        step[place[first]] = 1
        limit[place] = (place[first] + sizes)[unit]
        within = torch.arange(total) - first[unit]
        columns = grids.long()[:, 1][unit]
        hw[place, 0] = within // columns
        hw[place, 1] = within % columns
    t = step.cumsum(0) - 1
    return torch.cat([t[:, None], hw], 1).int(), limit.int()
