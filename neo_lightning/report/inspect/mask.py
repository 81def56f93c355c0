"""The mask's bounds -> a small drawing of its blocks.

    queries down, keys across                  text: a triangle        an image: a square that breaks
    a row of the drawing is filled from        |\\                      |\\_      out of it
    the least start to the greatest limit      | \\                     |  |
    of the tokens that it stands for           |__\\                    |__|\\

Trade-off: a drawing has about 192 rows, so in a long row several tokens share one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

SIZE = 192
"""Rows of a drawing, where there are more tokens; but at least one for each kind."""


def mask_svg(start: Tensor, limit: Tensor, kinds: Sequence[tuple[int, int, str]]) -> str:
    """Draw the rows [start, limit) of queries and keys from the first kind's first token to the last one's last.

    Args:
        start, limit: [T] of the whole row.
        kinds: (first token, one past the last, CSS class) of neighbouring runs of queries.
    """
    first, last = kinds[0][0], kinds[-1][1]
    count = last - first
    paths = []
    for begin, end, kind in kinds:
        rows = max(1, min(end - begin, SIZE * (end - begin) // count))
        edges = np.arange(rows) * (end - begin) // rows  # so no row of the drawing mixes documents
        low = np.minimum.reduceat(start.numpy()[begin:end], edges) - first
        high = np.maximum.reduceat(limit.numpy()[begin:end], edges) - first
        paths.append(f'<path class="{kind}" d="{_path(np.append(edges, end - begin) + begin - first, low, high)}"/>')
    return (
        f'<svg class="mask" viewBox="0 0 {count} {count}" preserveAspectRatio="none" data-first="{first}" '
        f'data-count="{count}" role="img" aria-label="which tokens see which">{"".join(paths)}</svg>'
    )


def _path(edges: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """One rectangle for each run of rows with the same bounds."""
    parts = []
    for group in np.split(np.arange(len(low)), np.flatnonzero(np.diff(low) | np.diff(high)) + 1):
        top, bottom, left, right = edges[group[0]], edges[group[-1] + 1], low[group[0]], high[group[0]]
        parts.append(f"M{left} {top}H{right}V{bottom}H{left}z")
    return "".join(parts)
