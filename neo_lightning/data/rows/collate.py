"""Documents -> one packed row of exactly `context` tokens with everything that the model and the loss need.

    document 0 | document 1 | ... | padding

Padding is a last document of its own: causal, never supervised, seen by nobody else. Weights are per document of n
supervised tokens: 1/sqrt(n) ("square"), 1 ("token") or 1/n ("sample"); they are divided by their sum over the whole
optimiser step later, by the training loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from neo_lightning.data.media.image import BLANK
from neo_lightning.data.rows.share import UNIT_PATCHES, blank_unit, part_of
from neo_lightning.sequence import NEO, SequenceRule, positions_and_limits, restarted, row_places
from neo_lightning.types import IGNORE, MODALITIES, PackedBatch, PackInfo, TokenSequence


@dataclass(frozen=True, slots=True)
class Document:
    """A serialised sample, ready to be packed."""

    key: str
    """`source/key`."""
    modality: str
    sequence: TokenSequence
    patches: Tensor | None
    """[P, 768] uint8, or none of a document outside of the part that is collated; None makes the document a tombstone:
    same tokens, blank pixels, weight 0."""
    reason: str = ""
    """Why it is a tombstone."""


def collate(
    documents: Sequence[Document],
    *,
    context: int,
    pad_id: int,
    weighting: str,
    index: int = 0,
    share: tuple[int, int] = (0, 1),
    rule: SequenceRule = NEO,
) -> PackedBatch:
    """Pack documents into one row (see types.PackedBatch for the fields), or one part of it.

    Args:
        documents: of the whole row.
        context: tokens of the row.
        pad_id: token of the padding.
        weighting: see `Stage.loss_weighting`.
        index: of the pack, for its PackInfo.
        share: which part, and of how many (see `rows.share`).
        rule: how pictures lie in it.

    Raises:
        ValueError: the documents have more tokens than the context, or pixels do not match their grids.
    """
    lengths = [d.sequence.input_ids.numel() for d in documents]
    used = sum(lengths)
    pad = context - used
    if pad < 0:
        raise ValueError(f"pack {index}: {used} tokens do not fit a context of {context}")
    sequences = [d.sequence for d in documents]
    none = torch.zeros(pad, dtype=torch.bool)
    input_ids = torch.cat([*(s.input_ids for s in sequences), torch.full((pad,), pad_id)])
    supervised = torch.cat([*(s.supervised for s in sequences), none])
    visual = torch.cat([*(s.visual for s in sequences), none])
    grids = torch.cat([*(s.grids for s in sequences), torch.empty(0, 2, dtype=torch.int32)])

    row_lengths = torch.tensor([*lengths, pad])
    owner = torch.repeat_interleave(torch.arange(len(lengths) + 1), row_lengths)  # [T] document of each token
    start = (row_lengths.cumsum(0) - row_lengths)[owner]
    positions, limit = positions_and_limits(visual, grids, rule)

    alive = torch.tensor([d.patches is not None for d in documents] + [False])
    targets = torch.full((context,), IGNORE)
    predicts = supervised[1:] & (owner[1:] == owner[:-1]) & alive[owner[1:]]  # [T-1] token i+1 is learnt at i
    targets[:-1][predicts] = input_ids[1:][predicts]
    counts = torch.bincount(owner[:-1][predicts], minlength=len(lengths) + 1).float()
    weights = torch.where(targets != IGNORE, _document_weights(counts, weighting)[owner], torch.zeros(()))

    kinds = torch.tensor([MODALITIES.index(d.modality) for d in documents] + [0])
    part, parts = share
    row = PackedBatch(
        input_ids=input_ids,
        positions=restarted(positions, start, rule),
        start=start.int(),
        limit=limit,
        targets=targets,
        weights=weights,
        modality=kinds[owner],
        visual_index=visual.nonzero().squeeze(-1),
        patches=_patches(documents, rule.patch_values) if parts == 1 else torch.empty(0, 768, dtype=torch.uint8),
        grids=grids * 2 if grids.shape[0] else blank_unit()[1],
        row_index=row_places(visual, grids, rule),
        info=PackInfo(
            index=index,
            tokens=used,
            supervised=int(counts.sum()),
            pairs=rule.pairs(
                causal=sum(length * (length + 1) // 2 for length in lengths),
                with_units=int((limit.long() - start)[:used].sum()),
            ),
            keys=tuple(d.key for d in documents),
            tombstones=tuple((d.key, d.reason) for d in documents if d.patches is None),
        ),
    )
    if parts == 1:
        return row
    return part_of(row, part, parts, lambda first, last: _patches(documents, rule.patch_values, first, last))


def _document_weights(counts: Tensor, weighting: str) -> Tensor:
    """[documents] weight of one token, from the documents' numbers of supervised tokens."""
    n = counts.clamp(min=1)
    if weighting == "square":
        return n.rsqrt()
    if weighting == "sample":
        return n.reciprocal()
    if weighting == "token":
        return torch.ones_like(n)
    raise ValueError(f"loss weighting {weighting!r} is not one of square, token, sample")


def _patches(documents: Sequence[Document], values: int, first: int = 0, last: int | None = None) -> Tensor:
    """[P, values] uint8: patches [first, last) of all documents; one blank unit where there is none."""
    parts = [blank_unit(values)[0][:0]]
    end = 0
    for document in documents:
        wanted = sum(rows * columns for rows, columns in document.sequence.grids.tolist()) * UNIT_PATCHES
        begin, end = end, end + wanted
        own = slice(max(0, first - begin), wanted if last is None else max(0, min(wanted, last - begin)))
        if own.start >= own.stop:
            continue
        if document.patches is None:
            parts.append(torch.full((own.stop - own.start, values), BLANK, dtype=torch.uint8))
            continue
        if document.patches.shape[0] != wanted:
            raise ValueError(f"{document.key}: {document.patches.shape[0]} patches for grids that hold {wanted}")
        parts.append(document.patches[own])
    patches = torch.cat(parts)
    return patches if patches.shape[0] else blank_unit(values)[0]
