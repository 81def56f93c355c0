"""Lengths -> rows that they fill as completely as possible. Pure: indices in, lists of indices out.

Best-fit decreasing (each length, longest first, goes into the fullest row that still holds it) leaves under 1% empty
where samples are short against the context. Where only a few fit into a row and their lengths repeat, it leaves 5%;
then each row is filled by the best sum of the remaining lengths instead, found exactly by dynamic programming on the
bits of an integer (bit s of `reach` is set where some of the lengths sum to s).
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence

FULL = 0.98
"""Fill from which a row counts as full."""

_ENOUGH_FULL_ROWS = 0.9
_MAX_DISTINCT = 128
"""Distinct lengths that one row's best sum is looked for in; more are thinned out."""


def pack_rows(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Partition of the indices of `lengths` into rows of at most `context` tokens.

    Raises:
        ValueError: a length is below 1 or over the context.
    """
    if lengths and not 1 <= min(lengths) <= max(lengths) <= context:
        raise ValueError(f"lengths from {min(lengths)} to {max(lengths)} do not fit rows of {context} tokens")
    rows = best_fit(lengths, context)
    full = _full_rows(rows, lengths, context)
    if full >= _ENOUGH_FULL_ROWS * len(rows):
        return rows
    others = best_sums(lengths, context)
    return others if _full_rows(others, lengths, context) > full else rows


def best_fit(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Best-fit decreasing. Equal lengths keep their order."""
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (tokens left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        length = lengths[index]
        at = bisect.bisect_left(free, (length, -1))
        if at == len(free):
            rows.append([index])
            left, row = context - length, len(rows) - 1
        else:
            left, row = free.pop(at)
            rows[row].append(index)
            left -= length
        bisect.insort(free, (left, row))
    return rows


def best_sums(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Row after row: the longest that is left, and the lengths whose sum comes nearest to the space behind it.

    The best row stays the best while its lengths last, so it is looked for once and repeated.
    """
    left: dict[int, list[int]] = {}
    for index in range(len(lengths) - 1, -1, -1):
        left.setdefault(lengths[index], []).append(index)
    rows = []
    while left:
        longest = max(left)
        chosen = [longest, *_best_sum({length: len(left[length]) for length in left}, longest, context - longest)]
        copies = Counter(chosen)
        for _ in range(min(len(left[length]) // count for length, count in copies.items())):
            rows.append([left[length].pop() for length in chosen])
        for length in copies:
            if not left[length]:
                del left[length]
    return rows


def _best_sum(counts: dict[int, int], taken: int, space: int) -> list[int]:
    """Lengths with the greatest sum up to `space`, long ones preferred; one of length `taken` is gone already."""
    counts[taken] -= 1
    usable = sorted(length for length, count in counts.items() if count and length <= space)
    usable = usable[:: -(-len(usable) // _MAX_DISTINCT) or 1]
    mask = (1 << (space + 1)) - 1
    reach = [1]  # reach[i]: sums of the i shortest usable lengths
    for length in usable:
        sums, count, batch = reach[-1], min(counts[length], space // length), 1
        while count:  # 1, 2, 4, ... copies at a time give every number of copies
            batch = min(batch, count)
            sums |= (sums << (batch * length)) & mask
            count -= batch
            batch *= 2
        reach.append(sums)
        if sums >> space & 1:
            break
    total = reach[-1].bit_length() - 1
    chosen: list[int] = []
    for i in range(len(reach) - 2, -1, -1):
        length = usable[i]
        copies = min(counts[length], total // length)
        while not reach[i] >> (total - copies * length) & 1:
            copies -= 1
        chosen += [length] * copies
        total -= copies * length
    return chosen


def _full_rows(rows: list[list[int]], lengths: Sequence[int], context: int) -> int:
    return sum(sum(lengths[i] for i in row) >= FULL * context for row in rows)
