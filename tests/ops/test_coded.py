"""Weights in few bits: nearest codes, their size, and what cannot be."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.ops.coded import LEVELS, decode, encode, room

from .support import DEVICE

SHAPE = 50, 320


def weights() -> torch.Tensor:
    """Rows of very different size, one of them all zero."""
    weight = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3)) * torch.logspace(-6, 3, 50)[:, None]
    weight[7] = 0
    return weight.to(DEVICE)


def test_8_bits_are_the_nearest_whole_numbers() -> None:
    """Off by half a scale at most, and by what bfloat16's scale leaves of the largest."""
    weight = weights()
    codes, scale = encode(weight, 8)
    error = (decode(encode(weight, 8), torch.float32) - weight).abs()
    assert (codes.dtype, scale.dtype, codes.shape, scale.shape) == (torch.int8, torch.bfloat16, SHAPE, SHAPE[:1])
    assert (error <= (0.5 + 127 * 2**-8) * scale.float()[:, None]).all()
    assert (error <= 0.5001 * scale.float()[:, None]).float().mean() > 0.99
    assert codes[7].count_nonzero() == 0
    assert codes[torch.arange(50) != 7].abs().amax(1).min() >= 126


def test_4_bits_are_the_nearest_levels_of_their_block() -> None:
    """Against a search through all levels; two weights in a byte, and a scale for each 64."""
    weight = weights()
    codes, scale = encode(weight, 4)
    assert (codes.dtype, scale.dtype) == (torch.uint8, torch.bfloat16)
    assert (codes.shape, scale.shape) == ((50, 160), (50, 5))
    levels = torch.tensor(LEVELS, device=DEVICE)
    each = scale.float().repeat_interleave(64, 1)
    nearest = (weight[..., None] - levels * each[..., None]).abs().amin(-1)
    found = decode(encode(weight, 4), torch.float32)
    assert torch.equal((found - weight).abs(), nearest)
    assert found[7].count_nonzero() == 0
    assert ((found - weight).pow(2).sum(1) / weight.pow(2).sum(1).clamp(min=1e-30)).max() < 0.012, "of normal weights"


def test_4_bits_fit_rows_of_any_even_length() -> None:
    """Shorter blocks there; whoever has rows of an odd length is told."""
    for inputs, blocks in ((16, 1), (24, 3), (96, 3), (2, 1)):
        coded = encode(torch.randn(3, inputs, device=DEVICE), 4)
        assert coded.scale.shape == (3, blocks)
        assert decode(coded, torch.bfloat16).shape == (3, inputs)
    with pytest.raises(ValueError, match="two weights of a row in a byte, and this one has 7"):
        room(torch.empty(3, 7), 4)
