"""What the report shows is what the model saw."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from neo_lightning.data.media.image import patchify
from neo_lightning.evaluation.questions import blank
from neo_lightning.report.pictures import film_strip, side_by_side, unpatchify


def test_unpatchify_undoes_the_data_rooms_patchify() -> None:
    generator = torch.Generator().manual_seed(0)
    images = [
        torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        for height, width in ((64, 96), (32, 32), (96, 64))
    ]
    patches = torch.cat([patchify(image) for image in images])
    grids = torch.tensor([[image.shape[1] // 32, image.shape[2] // 32] for image in images])
    for before, after in zip(images, unpatchify(patches, grids), strict=True):
        assert np.array_equal(before.permute(1, 2, 0).numpy(), np.asarray(after))
    with pytest.raises(ValueError, match="patches"):
        unpatchify(patches, grids[:2])


def test_blank_keeps_sizes_and_nothing_else() -> None:
    patches = torch.arange(768 * 2).reshape(2, 768).to(torch.uint8)
    assert blank(patches).shape == patches.shape
    assert blank(patches).unique().tolist() == [0]


def test_strips_hold_every_picture() -> None:
    colours = [(200, 10 * k, 0) for k in range(10)]
    frames = unpatchify(
        torch.cat([patchify(torch.tensor(c, dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 64)) for c in colours]),
        torch.tensor([[1, 2]] * 10),
    )
    film = np.asarray(film_strip(frames))
    row = np.asarray(side_by_side(frames))
    for colour in colours:
        assert (film == colour).all(-1).sum() == 32 * 64
        assert (row[..., :3] == colour).all(-1).sum() == 32 * 64
    assert film.shape[0] > 2 * 32  # ten frames take two rows
