"""The patch embedding of a ragged batch against one image at a time, with convolutions and a written-out rotation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from neo_lightning.model.patch_embed import IMAGENET_MEAN, IMAGENET_STD, PatchEmbedding, normalise
from tests.model.support import relative, small_config

SIZES = [(2, 4), (6, 2), (2, 2), (8, 10)]  # in patches


@pytest.fixture(scope="module")
def embedding():
    torch.manual_seed(0)
    module = PatchEmbedding(small_config(patch_hidden_size=24, rope_theta_vision=50.0))
    return module.double()


def images():
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, 16 * r, 16 * c), generator=generator, dtype=torch.uint8) for r, c in SIZES]


def patchify(image):
    c, h, w = image.shape
    return image.view(c, h // 16, 16, w // 16, 16).permute(1, 3, 0, 2, 4).reshape(-1, 768)


def one_by_one(module, image):
    """[3, H, W] uint8 -> [H W / 1024, E]: convolutions, and the rotation pair by pair."""
    mean, std = (torch.tensor(x).double()[:, None, None] for x in (IMAGENET_MEAN, IMAGENET_STD))
    x = F.gelu(module.patch_embedding((image.double() / 255 - mean) / std))
    channels, rows, columns = x.shape
    half, out = channels // 2, torch.empty_like(x)
    for axis, count in ((1, columns), (0, rows)):
        for place in range(count):
            for k in range(half // 2):
                angle = place * 50.0 ** (-2 * k / half)
                a = (0 if axis == 1 else half) + 2 * k
                where = (slice(None), place) if axis == 1 else (place, slice(None))
                first, second = x[a][where], x[a + 1][where]
                out[a][where] = first * math.cos(angle) - second * math.sin(angle)
                out[a + 1][where] = second * math.cos(angle) + first * math.sin(angle)
    return module.dense_embedding(out).flatten(1).t()


@torch.no_grad()
def test_a_ragged_batch_is_its_images_one_by_one(embedding):
    expected = torch.cat([one_by_one(embedding, image) for image in images()])
    ours = embedding(torch.cat([patchify(image) for image in images()]), torch.tensor(SIZES, dtype=torch.int32))
    assert relative(ours, expected) < 1e-5  # angles are float32 in the model


@torch.no_grad()
def test_images_do_not_touch_each_other_and_order_is_kept(embedding):
    patches, grids = [patchify(image) for image in images()], torch.tensor(SIZES, dtype=torch.int32)
    together = embedding(torch.cat(patches), grids).split([r * c // 4 for r, c in SIZES])
    for one, patch, grid in zip(together, patches, grids, strict=True):
        assert torch.allclose(one, embedding(patch, grid[None]), atol=1e-12)


def test_normalised_floats_pass_through_unchanged(embedding):
    patches, grids = patchify(images()[0]), torch.tensor(SIZES[:1], dtype=torch.int32)
    assert torch.equal(embedding(patches, grids), embedding(normalise(patches), grids))
    mean = torch.tensor(IMAGENET_MEAN).repeat_interleave(256)
    std = torch.tensor(IMAGENET_STD).repeat_interleave(256)
    assert torch.allclose(normalise(patches), (patches / 255 - mean) / std, atol=1e-6)


def test_the_six_constants_of_normalisation():
    """Black and white, and one channel alone, by the numbers of torchvision's ImageNet models in the order R, G, B."""
    rows = torch.tensor([[0] * 768, [255] * 768, [51] * 256 + [102] * 256 + [204] * 256], dtype=torch.uint8)
    red, green, blue = normalise(rows).view(3, 3, 256).unbind(1)
    for channel, mean, deviation, level in (
        (red, 0.485, 0.229, 0.2),
        (green, 0.456, 0.224, 0.4),
        (blue, 0.406, 0.225, 0.8),
    ):
        for row, value in enumerate((0.0, 1.0, level)):
            assert torch.allclose(channel[row], torch.full((256,), (value - mean) / deviation), atol=1e-5)
