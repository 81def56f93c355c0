"""A packed row -> the parts of it that ranks share: equally many tokens each, wherever documents and images end.

    row      document 0 | document 1 ............ | document 2 | padding     positions, targets and mask are the row's,
    parts    0 ............... | 1 ............... | 2 ................ +    then they are cut; + fills up the last part

The prediction made at a part's last token is of the next part's first, which its target knows from before the cut. An
image that is cut keeps, in either part, the rows of visual tokens that the part needs something of: so a part's pixels
are one run of the row's, and of all parts together only the rows that are cut are embedded twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from neo_lightning.data.media.image import BLANK
from neo_lightning.types import IGNORE, PackedBatch, PackInfo, RowPart

UNIT_PATCHES = 4
"""Patches of the smallest image: 2 x 2, one visual token."""


def blank_unit(values: int = 768) -> tuple[Tensor, Tensor]:
    """Patches and grid of the smallest image, for what has no pixels: every rank runs every module."""
    return torch.full((UNIT_PATCHES, values), BLANK, dtype=torch.uint8), torch.full((1, 2), 2, dtype=torch.int32)


def span(tokens: int, part: int, parts: int) -> tuple[int, int]:
    """First and one past the last token of a part of a row; the last part may end behind the row."""
    each = -(-tokens // parts)
    return part * each, (part + 1) * each


def part_of(row: PackedBatch, part: int, parts: int, read: Callable[[int, int], Tensor] | None = None) -> RowPart:
    """Cut a part out of a row.

    Args:
        row: whole.
        part: which, from 0.
        parts: how many there are.
        read: gives the row's patches [first, last), where they are not in `row`.
    """
    tokens = row.input_ids.numel()
    a, b = span(tokens, part, parts)
    first, last = (int(i) for i in torch.searchsorted(row.visual_index, torch.tensor([a, b])))
    first_row, before = 0, 0
    patches, grids = blank_unit()
    if first < last:
        run = _run(row.grids // 2, first, last)
        patches = row.patches[run.first : run.last] if read is None else read(run.first, run.last)
        grids, first_row, before = run.grids, run.first_row, run.before
    missing = torch.arange(tokens, span(tokens, parts - 1, parts)[1], dtype=row.start.dtype)

    def own(values: Tensor, filler: float) -> Tensor:
        return torch.cat([values[a:b], values.new_full((b - max(a, min(b, tokens)), *values.shape[1:]), filler)])

    return RowPart(
        input_ids=own(row.input_ids, 0),
        positions=own(row.positions, 0),
        start=torch.cat([row.start, torch.full_like(missing, tokens)]),
        limit=torch.cat([row.limit, missing + 1]),
        targets=own(row.targets, IGNORE),
        weights=own(row.weights, 0),
        modality=own(row.modality, 0),
        visual_index=row.visual_index[first:last] - a,
        patches=patches,
        grids=grids,
        info=None if row.info is None else _info(row, row.info, a, b),
        part=part,
        first_row=first_row,
        before=before,
        row_keys=() if row.info is None else row.info.keys,
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """The patches of some visual tokens that follow each other."""

    first: int
    """In the row's patches."""
    last: int
    grids: Tensor
    """[I, 2] int32: rows and columns of the units in patches, cut to those rows."""
    first_row: int
    before: int


def _run(grids: Tensor, first: int, last: int) -> _Run:
    """Patches of the visual tokens [first, last), at least one, in units of `grids` [I, 2] tokens."""
    ends = grids.long().prod(-1).cumsum(0)
    begins = ends - grids.long().prod(-1)
    low, high = (int(i) for i in torch.searchsorted(ends, torch.tensor([first, last - 1]), right=True))
    kept = grids[low : high + 1].clone()
    kept[-1, 0] = -(-(last - int(begins[high])) // int(grids[high, 1]))
    end = int(begins[high]) + int(kept[-1].prod())
    first_row, before = divmod(first - int(begins[low]), int(grids[low, 1]))
    kept[0, 0] -= first_row
    begin = first - before
    return _Run(
        first=UNIT_PATCHES * begin,
        last=UNIT_PATCHES * end,
        grids=(2 * kept).int(),
        first_row=first_row,
        before=before,
    )


def _info(row: PackedBatch, info: PackInfo, a: int, b: int) -> PackInfo:
    """What of a row is reported with the tokens [a, b); documents where they begin."""
    filled = slice(a, max(a, min(b, info.tokens)))
    begun = [key for key, at in zip(info.keys, row.start.unique().tolist(), strict=False) if a <= at < b]
    reasons = dict(info.tombstones)
    return PackInfo(
        index=info.index,
        tokens=filled.stop - filled.start,
        supervised=int((row.targets[a:b] != IGNORE).sum()),
        pairs=int((row.limit[filled].long() - row.start[filled]).sum()),
        keys=tuple(begun),
        tombstones=tuple((key, reasons[key]) for key in begun if key in reasons),
    )
