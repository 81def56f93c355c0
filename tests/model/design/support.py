"""Rows and prompts of an arm, made from its own rule."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neo_lightning.data.rows.collate import Document, collate
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.generate import Prompt
from neo_lightning.types import PackedBatch, TokenSequence

START, END, ROW = 291, 292, 293
"""Ids in front of a picture, behind it, and behind its rows."""


def document(config: NeoConfig, images: Sequence[tuple[int, int]], text: int = 5, seed: int = 0) -> Document:
    """Text, then a picture between its tags and text again, for each of (rows, columns); all text is supervised."""
    generator, rule = torch.Generator().manual_seed(seed), config.rule
    ids = [torch.randint(0, 290, (text,), generator=generator)]
    for rows, columns in images:
        unit = torch.full((rows, columns + rule.extra_columns), config.image_token_id)
        unit[:, columns:] = ROW
        words = torch.randint(0, 290, (text,), generator=generator)
        ids += [torch.tensor([START]), unit.flatten(), torch.tensor([END]), words]
    tokens = torch.cat(ids)
    patches = 4 * sum(rows * columns for rows, columns in images)
    sequence = TokenSequence(
        input_ids=tokens,
        supervised=tokens < 290,
        visual=tokens == config.image_token_id,
        grids=torch.tensor(images, dtype=torch.int32).reshape(-1, 2),
    )
    pixels = torch.randint(0, 256, (patches, rule.patch_values), generator=generator, dtype=torch.uint8)
    return Document(key=f"x/{seed}", modality="image", sequence=sequence, patches=pixels)


def row(config: NeoConfig, documents: Sequence[Document], pad: int = 0) -> PackedBatch:
    """The documents as one packed row."""
    length = sum(d.sequence.input_ids.numel() for d in documents) + pad
    return collate(documents, context=length, pad_id=0, weighting="token", rule=config.rule)


def prompt(config: NeoConfig, of: Document, more: Sequence[int] = ()) -> Prompt:
    """A document to go on from, with tokens behind it."""
    ids, visual = of.sequence.input_ids, of.sequence.visual
    assert of.patches is not None
    tail = torch.tensor(more, dtype=torch.long)
    return Prompt(
        input_ids=torch.cat([ids, tail]),
        visual=torch.cat([visual, torch.zeros(len(more), dtype=torch.bool)]),
        grids=of.sequence.grids,
        patches=of.patches,
        rule=config.rule,
    )


def states(model: torch.nn.Module, batch: PackedBatch, x: Tensor | None = None) -> Tensor:
    """[T, hidden] behind all layers, from given embeddings or the batch's own."""
    visual = batch.visual_index, batch.patches, batch.grids, batch.row_index
    own = model.embed(batch.input_ids, *visual) if x is None else x  # type: ignore[operator]
    return model.hidden(own, model.row(batch.positions, batch.start, batch.limit, batch.visual_index, batch.row_index))  # type: ignore[operator]
