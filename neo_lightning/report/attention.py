"""Where heads look, as pictures: the question's images once for each head, orange where it looks.

1.1  12%   1.2  3%   1.3  80%  ...      layer.head, and how much of its attention lies on pictures at all
[image]    [image]   [image]
2.1  ...
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from neo_lightning.model.prompt import Prompt
from neo_lightning.report.pictures import GAP, side_by_side

MOST = 24
"""Heads shown; of more those that look hardest at one place of a picture."""
COLUMNS = 8
HEIGHT = 72
"""Pixels of one small picture."""
LABEL = 16
ORANGE, INK, PAPER = (255, 150, 20), (29, 33, 39), (255, 255, 255)


def heads(images: list[Image.Image], prompt: Prompt, attention: Tensor) -> Image.Image:
    """One sheet.

    Args:
        images: the prompt's images and frames as the model saw them.
        prompt: the question.
        attention: [layers, heads, N] as `model.attention_maps` gives it.
    """
    on_pictures = attention[:, :, prompt.visual]
    layers, count, _ = on_pictures.shape
    sharpest = on_pictures.amax(-1).flatten().topk(min(MOST, layers * count)).indices.sort().values
    columns = count if layers * count <= MOST else COLUMNS
    tiles = []
    for index in sharpest.tolist():
        layer, head = divmod(index, count)
        weights = on_pictures[layer, head]
        tiles.append(_tile(images, prompt.grids, weights, f"{layer + 1}.{head + 1}  {100 * float(weights.sum()):.0f}%"))
    width, height = tiles[0].width + GAP, tiles[0].height + GAP
    sheet = Image.new("RGB", (columns * width, -(-len(tiles) // columns) * height), PAPER)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(tile, (column * width, row * height))
    return sheet


def _tile(images: list[Image.Image], grids: Tensor, weights: Tensor, label: str) -> Image.Image:
    """One head's; its brightest place is its hardest look, however little that is."""
    parts = (weights / weights.max().clamp(min=1e-9)).split(grids.prod(-1).tolist())
    painted = [
        _painted(image, part.view(*size)) for image, part, size in zip(images, parts, grids.tolist(), strict=True)
    ]
    row = side_by_side(painted, HEIGHT)
    tile = Image.new("RGB", (max(row.width, 56), HEIGHT + LABEL), PAPER)
    tile.paste(row, (0, LABEL), row)
    ImageDraw.Draw(tile).text((0, 1), label, fill=INK, font=ImageFont.load_default(size=12))
    return tile


def _painted(image: Image.Image, weights: Tensor) -> Image.Image:
    """A grey, pale picture under an orange that is as strong as the weights [rows, columns], 0-1."""
    grey = torch.from_numpy(np.array(image.convert("L"), dtype=np.float32)) * 0.6 + 70
    strength = weights.repeat_interleave(image.height // weights.shape[0], 0)
    strength = 0.85 * strength.repeat_interleave(image.width // weights.shape[1], 1)[:, :, None]
    mixed = grey[:, :, None] * (1 - strength) + strength * torch.tensor(ORANGE, dtype=torch.float32)
    return Image.fromarray(mixed.clamp(0, 255).to(torch.uint8).numpy())
