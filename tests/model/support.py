"""Small models and packed rows for the tests of the model."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo
from neo_lightning.sequence import positions_and_limits
from neo_lightning.types import IGNORE, PackedBatch

GOLDEN = Path(__file__).parents[1] / "golden" / "neo_tiny"


def golden_config() -> NeoConfig:
    return NeoConfig.from_dict(json.loads((GOLDEN / "config.json").read_text()))


def golden_model() -> Neo:
    model = Neo(golden_config())
    model.load_state_dict(load_file(GOLDEN / "model.safetensors"))
    return model


def small_config(**changes: object) -> NeoConfig:
    return replace(golden_config(), **changes)


def small_model(seed: int = 0, attention: str = "auto", **changes: object) -> Neo:
    """A random model whose weights are large enough for every part to matter."""
    model = Neo(small_config(**changes), attention=attention)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if parameter.dim() == 1 else 0.1 * noise)
    return model


def pack(
    documents: list[tuple[Tensor, Tensor]],
    image_token: int,
    patches: Tensor,
    labels: Tensor | None = None,
    label_weights: Tensor | None = None,
) -> PackedBatch:
    """Documents of (input_ids [N], grids [I, 2] in visual tokens) as one row; labels name the token itself."""
    ids = torch.cat([d[0] for d in documents])
    n = ids.numel()
    positions, limit, start = [], [], []
    offset = 0
    for tokens, grids in documents:
        position, end = positions_and_limits(tokens == image_token, grids)
        positions.append(position)
        limit.append(end + offset)
        start.append(torch.full((tokens.numel(),), offset, dtype=torch.int32))
        offset += tokens.numel()
    targets, weights = torch.full((n,), IGNORE), torch.zeros(n)
    if labels is not None:
        targets[:-1] = labels[1:]
        supervised = targets != IGNORE
        source = torch.ones(n) if label_weights is None else label_weights
        weights[:-1] = torch.where(supervised[:-1], source[1:], torch.zeros(n - 1))
    grids = torch.cat([d[1] for d in documents]).int() * 2
    if not grids.numel():
        grids, patches = torch.tensor([[2, 2]], dtype=torch.int32), torch.zeros(4, 768, dtype=torch.uint8)
    return PackedBatch(
        input_ids=ids,
        positions=torch.cat(positions),
        start=torch.cat(start),
        limit=torch.cat(limit).int(),
        targets=targets,
        weights=weights,
        modality=torch.zeros(n, dtype=torch.long),
        visual_index=(ids == image_token).nonzero().squeeze(-1),
        patches=patches,
        grids=grids,
    )


def golden_batch() -> tuple[PackedBatch, dict[str, Tensor]]:
    """The golden row (its patches are normalised floats) and all its tensors."""
    golden = load_file(GOLDEN / "packed.safetensors")
    config = golden_config()
    bounds = golden["seq_boundaries"].tolist()
    grids, documents, unit = golden["grid_hw"] // 2, [], 0
    for a, b in pairwise(bounds):
        tokens = golden["input_ids"][a:b]
        visual, first = int((tokens == config.image_token_id).sum()), unit
        while visual > 0:
            visual -= int(grids[unit].prod())
            unit += 1
        documents.append((tokens, grids[first:unit]))
    batch = pack(documents, config.image_token_id, golden["pixel_values"], golden["labels"], golden["loss_weight"])
    return batch, golden


def random_document(config: NeoConfig, images: list[tuple[int, int]], text: int, seed: int) -> tuple[Tensor, Tensor]:
    """`text` tokens before, between and after images of the given rows and columns of visual tokens."""
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randint(0, 290, (text,), generator=generator)]
    for rows, columns in images:
        parts.append(torch.tensor([config.image_start_token_id]))
        parts.append(torch.full((rows * columns,), config.image_token_id))
        parts.append(torch.randint(0, 290, (text,), generator=generator))
    return torch.cat(parts), torch.tensor(images, dtype=torch.int32).reshape(-1, 2)


def random_patches(documents: list[tuple[Tensor, Tensor]], seed: int = 0) -> Tensor:
    """uint8 patches for all images of the documents."""
    total = sum(int(grids.prod(-1).sum()) * 4 for _, grids in documents)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (total, 768), generator=generator, dtype=torch.uint8)


def random_batch(config: NeoConfig, images: list[list[tuple[int, int]]], text: int = 7, seed: int = 0) -> PackedBatch:
    """One document per entry of `images`, every text token supervised."""
    documents = [random_document(config, sizes, text, seed + i) for i, sizes in enumerate(images)]
    ids = torch.cat([d[0] for d in documents])
    labels = torch.where(ids < 290, ids, torch.full_like(ids, IGNORE))
    offset = 0
    for tokens, _ in documents:
        labels[offset] = IGNORE
        offset += tokens.numel()
    return pack(documents, config.image_token_id, random_patches(documents, seed), labels)


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest expected value."""
    actual, expected = actual.detach(), expected.detach()
    return float((actual.double() - expected.double()).abs().max() / expected.double().abs().max())
