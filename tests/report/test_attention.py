"""Sheets of where heads look: orange lies where the weight is, and of many heads the sharpest are shown."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from neo_lightning.model.prompt import Prompt
from neo_lightning.report.attention import COLUMNS, GAP, HEIGHT, LABEL, MOST, heads

IMAGES = [Image.new("RGB", (64, 64)), Image.new("RGB", (96, 64), (255, 255, 255))]


def asked() -> tuple[Prompt, Tensor]:
    """Two pictures of 2 x 2 and 2 x 3 tokens with a word around each, and where the visual tokens are."""
    visual = torch.tensor([0, *[1] * 4, 0, *[1] * 6, 0]).bool()
    grids = torch.tensor([[2, 2], [2, 3]])
    return Prompt(input_ids=visual.long(), visual=visual, grids=grids, patches=torch.zeros(40, 768)), visual.nonzero()


def orange(sheet: Image.Image) -> np.ndarray:
    pixels = np.asarray(sheet).astype(int)
    return (pixels[..., 0] - pixels[..., 2]) > 150


def test_orange_lies_where_the_weight_is() -> None:
    prompt, places = asked()
    attention = torch.zeros(1, 2, len(prompt))
    attention[0, 0, places[1]] = 0.25  # top right of the first
    attention[0, 1, places[-1]] = 0.5  # bottom right of the second
    attention[:, :, 0] = 1 - attention.sum(-1)
    sheet = heads(IMAGES, prompt, attention)
    width = 72 + GAP + 108
    assert sheet.size == (2 * (width + GAP), HEIGHT + LABEL + GAP)
    rows, columns = orange(sheet).nonzero()
    first = columns < width
    assert (rows[first].min(), rows[first].max()) == (LABEL, LABEL + 35)
    assert (columns[first].min(), columns[first].max()) == (36, 71)
    assert (rows[~first].min(), rows[~first].max()) == (LABEL + 36, LABEL + 71)
    assert (columns[~first].min(), columns[~first].max()) == (2 * width + GAP - 36, 2 * width + GAP - 1)


def test_of_many_heads_the_sharpest_are_shown() -> None:
    prompt, places = asked()
    attention = torch.full((10, 8, len(prompt)), 1 / len(prompt))
    sharp = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:MOST]
    sharpened = attention.view(80, -1)
    sharpened[sharp] = 0
    sharpened[sharp, int(places[0])] = 0.5  # less of it on pictures than an even head has, but in one place
    sheet = heads(IMAGES, prompt, attention)
    tile = sheet.width // COLUMNS
    assert sheet.size == (COLUMNS * tile, MOST // COLUMNS * (HEIGHT + LABEL + GAP))
    there = orange(sheet)
    for row in range(MOST // COLUMNS):
        for column in range(COLUMNS):
            top, left = row * (HEIGHT + LABEL + GAP) + LABEL, column * tile
            assert there[top : top + 36, left : left + 36].all()
            assert there[top : top + HEIGHT, left : left + tile].sum() == 36 * 36
