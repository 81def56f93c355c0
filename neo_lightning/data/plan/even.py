"""Documents -> rows of like cost, filled as completely as packing by length alone does, within half a percent.

A row of many short documents costs little more than its tokens, one of a few long clips twice as much. So long
documents are dealt first, the dearest to the row with the least work so far that has room for it; short ones then fill
what is left by best fit. What no packing can even out, a document dearer than an average row, is left for the order of
the steps (`bundle.py`). Rows of like cost are also rows of like composition: each has a little of everything.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Sequence

from neo_lightning.data.plan.packing import pack_rows

SHORT = 1 / 12
"""Of the context: shorter documents fill up rows."""
SLACK = 1.0005
"""Rows that long documents are dealt to, over the least number that could hold all tokens."""
MOST_ROWS = 1.005
"""More rows than by length alone, times this, and the documents are packed by length alone."""
_LOOKED_AT = 256
"""Rows, those with the least work first, that a document is tried in before it begins one of its own."""


def even_rows(lengths: Sequence[int], costs: Sequence[int], context: int) -> list[list[int]]:
    """Partition of the indices of `lengths` into rows of at most `context` tokens.

    Args:
        lengths: tokens of each document, 1 to `context`.
        costs: work of each document beyond that of its tokens; only their ratios matter.
        context: tokens of a row.
    """
    by_length = pack_rows(lengths, context)
    rows = _dealt(lengths, costs, context)
    return rows if len(rows) <= MOST_ROWS * len(by_length) else by_length


def _dealt(lengths: Sequence[int], costs: Sequence[int], context: int) -> list[list[int]]:
    order = sorted(range(len(lengths)), key=lambda i: (-costs[i], -lengths[i]))
    long = [i for i in order if lengths[i] >= SHORT * context]
    short = sorted((i for i in order if lengths[i] < SHORT * context), key=lambda i: -lengths[i])
    count = -(-int(SLACK * sum(lengths)) // context)
    rows: list[list[int]] = [[] for _ in range(count)]
    left = [context] * count
    work = [(0, row) for row in range(count)]  # a heap, of rows that still have room for one of the long
    least = min((lengths[i] for i in long), default=0)
    for i in long:
        tried: list[tuple[int, int]] = []
        while work and len(tried) < _LOOKED_AT and left[work[0][1]] < lengths[i]:
            tried.append(heapq.heappop(work))
        if work and left[work[0][1]] >= lengths[i]:
            done, row = heapq.heappop(work)
        else:
            done, row = 0, len(rows)
            rows.append([])
            left.append(context)
        rows[row].append(i)
        left[row] -= lengths[i]
        for entry in (*tried, *([(done + costs[i], row)] if left[row] >= least else [])):
            heapq.heappush(work, entry)
    free = sorted((tokens, row) for row, tokens in enumerate(left))
    for i in short:
        at = bisect.bisect_left(free, (lengths[i], -1))
        if at == len(free):
            rows.append([])
            free.append((context, len(rows) - 1))
        tokens, row = free.pop(at)
        rows[row].append(i)
        bisect.insort(free, (tokens - lengths[i], row))
    return [row for row in rows if row]
