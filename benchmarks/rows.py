"""Packed rows of random tokens and pixels, laid out as real ones: what the benchmarks of whole steps train on."""

from __future__ import annotations

import torch
from torch import Tensor

from neo_lightning.model.config import NeoConfig
from neo_lightning.sequence import positions_and_limits
from neo_lightning.types import IGNORE, PackedBatch, PackInfo

UNITS = {"text": (0, (0, 0), 600), "image": (1, (38, 38), 80), "video": (32, (15, 15), 100)}
"""Kind of document -> how many images or frames, rows and columns of each in visual tokens, tokens of text beside.
An image of 1.5 MP, 32 frames of 480 x 480: about what `training.outlook` assumes, with less text."""

KINDS = {"text": ("text",), "image": ("image",), "video": ("video",), "mixed": ("image", "text", "video", "image")}
"""Name of a row -> the documents that take turns in it."""


def packed_row(config: NeoConfig, tokens: int, kind: str, *, shrink: int = 1, seed: int = 0) -> PackedBatch:
    """A row of `tokens` tokens of one of KINDS, on the CPU; the last document is cut off as text.

    Args:
        config: the network, for its vocabulary.
        tokens: T.
        kind: one of KINDS.
        shrink: divides the sides of images and the lengths of texts, for short rows.
        seed: of ids and pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    visual, grids, starts, positions, limits = [], [], [], [], []
    used = 0
    while used < tokens:
        for name in KINDS[kind]:
            part, sizes = _document(name, tokens - used, shrink)
            position, limit = positions_and_limits(part, sizes)
            visual.append(part)
            grids.append(sizes)
            starts.append(torch.full_like(limit, used))
            positions.append(position)
            limits.append(limit + used)
            used += part.numel()
    shown = torch.cat(visual)
    ids = torch.randint(0, min(config.vocab_size, config.image_token_id), (tokens,), generator=generator)
    ids[shown] = config.image_token_id % config.vocab_size
    start, limit = torch.cat(starts), torch.cat(limits)
    # the second half of each text is an answer
    targets = torch.where(shown | (torch.rand(tokens, generator=generator) < 0.5), IGNORE, ids.roll(-1))
    targets[torch.cat([start[1:] != start[:-1], torch.ones(1, dtype=torch.bool)])] = IGNORE
    sides = torch.cat([*grids, torch.ones(0 if bool(shown.any()) else 1, 2, dtype=torch.int32)]) * 2
    patches = int(sides.prod(-1).sum())
    return PackedBatch(
        input_ids=ids,
        positions=torch.cat(positions),
        start=start,
        limit=limit,
        targets=targets,
        weights=(targets != IGNORE).float(),
        modality=torch.zeros(tokens, dtype=torch.long),
        visual_index=shown.nonzero().squeeze(-1),
        patches=torch.randint(0, 256, (patches, 768), generator=generator, dtype=torch.uint8),
        grids=sides.int(),
        info=PackInfo(
            index=seed,
            tokens=tokens,
            supervised=int((targets != IGNORE).sum()),
            pairs=int((limit - start).sum()),
            keys=("synthetic",),
        ),
    )


def _document(name: str, room: int, shrink: int) -> tuple[Tensor, Tensor]:
    """Which tokens of a document are visual, and the sizes of its images; of at most `room` tokens."""
    units, (rows, columns), text = UNITS[name]
    rows, columns, text = (max(1, x // shrink) for x in (rows, columns, text))
    beside = max(1, text // (units + 1))
    units = min(units, max(0, (room - 1) // (rows * columns + beside)))
    run = torch.cat([torch.zeros(beside, dtype=torch.bool), torch.ones(rows * columns, dtype=torch.bool)])
    last = min(room - units * run.numel(), beside if units else text)
    visual = torch.cat([run.repeat(units), torch.zeros(last, dtype=torch.bool)])
    return visual, torch.tensor([[rows, columns]] * units, dtype=torch.int32).reshape(-1, 2)
