"""Where tokens stand and what they see: native (t, h, w) positions and the mixed mask.

Each image or frame is one *unit*, whose tokens see each other in both directions; text sees what came before it.

    token    a  b  <img> v  v  v  v  v  v  </img> c
    t        0  1   2    3  3  3  3  3  3    4    5         the whole unit is one step
    h        0  0   0    0  0  0  1  1  1    0    0         its rows and columns, in visual tokens
    w        0  0   0    0  1  2  0  1  2    0    0
    unit    -1 -1  -1    0  0  0  0  0  0   -1   -1
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache

MERGE = 2
"""Patches along each side of a visual token."""


def positions_and_units(visual: Tensor, grid_hw: Tensor | None, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions and units of a batch from its beginning.

    Args:
        visual: [B, L] bool, which tokens are visual.
        grid_hw: [n, 2] rows and columns of each image or frame in patches, those of row 0 first; None without any.
        attention_mask: [B, L], 0 where there is padding (on either side); None without any.

    Returns:
        positions [3, B, L] int64 and units [B, L] int64: -1 for text, else the unit's number in `grid_hw`.

    Raises:
        ValueError: the grids do not account for the visual tokens of each row.
    """
    unit = torch.full_like(visual, -1, dtype=torch.long)
    steps, h, w = (~visual).long(), torch.zeros_like(unit), torch.zeros_like(unit)
    if grid_hw is not None and len(grid_hw):
        rows, columns = (grid_hw.to(visual.device).long() // MERGE).unbind(1)
        sizes = rows * columns
        ends = sizes.cumsum(0)
        total = int(visual.sum())
        if (
            total != int(ends[-1])
            or not torch.isin(visual.sum(1).cumsum(0), torch.cat([ends.new_zeros(1), ends])).all()
        ):
            raise ValueError(
                f"the rows hold {visual.sum(1).tolist()} visual tokens, which images of {sizes.tolist()} do not fill; "
                "grid_hw has the images of row 0 first, in patches (two for each side of a visual token)"
            )
        number = torch.arange(total, device=visual.device)
        of = torch.searchsorted(ends, number, right=True)
        within = number - (ends - sizes)[of]
        unit[visual], steps[visual] = of, (within == 0).long()
        h[visual], w[visual] = within // columns[of], within % columns[of]
    elif visual.any():
        raise ValueError(f"there are {int(visual.sum())} visual tokens, but no grid_hw says how they lie")
    if attention_mask is not None:
        steps = steps * attention_mask
    t = (steps.cumsum(1) - 1).clamp(min=0)
    return torch.stack([t, h, w]), unit


def mixed_mask(unit: Tensor, attention_mask: Tensor | None, past: int, keys: int) -> Tensor:
    """Which keys each new token sees.

    Args:
        unit: [B, L] of the new tokens, see above.
        attention_mask: [B, past + L], 0 where there is padding; None without any.
        past: tokens in the cache in front of them.
        keys: how many keys there are; those behind past + L (a static cache's empty places) are not seen.

    Returns:
        [B, 1, L, keys] bool. Padding sees itself, so that no row of a softmax is empty.
    """
    batch, length = unit.shape
    query = torch.arange(past, past + length, device=unit.device)[:, None]
    key = torch.arange(keys, device=unit.device)
    visible = (key <= query).expand(batch, length, keys).clone()
    visible[:, :, past : past + length] |= (unit[:, :, None] == unit[:, None]) & (unit[:, :, None] >= 0)
    if attention_mask is not None:
        real = torch.zeros(batch, keys, dtype=torch.bool, device=unit.device)
        real[:, : past + length] = attention_mask.bool()
        visible = visible & real[:, None] | (key == query)
    return visible[:, None]


def keys_of(cache: Cache | None, seen: int) -> int:
    """How many keys a layer's attention gets: `seen`, or all places of a static cache."""
    return getattr(cache.layers[0], "max_cache_len", seen) if cache is not None and cache.layers else seen


def last_tokens(attention_mask: Tensor) -> Tensor:
    """[B, L], 0 where there is padding -> [B, 1]: the place of each row's last token."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.bool() * places).argmax(1, keepdim=True)
