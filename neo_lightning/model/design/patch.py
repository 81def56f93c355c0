"""Pixels to visual tokens without an encoder, by other modules than NEO-ov's (`model.patch_embed`).

    conv_gelu_conv   half a side a patch: Conv, GELU, position, Conv 2 x 2        NEO, EVEv2, OneCAT
    linear           the whole square: Linear with bias, position                 Fuyu
    linear_no_bias   the same without a bias                                      SOLO, SAIL
    conv_norm        Conv to patch_hidden_size, position, RMSNorm, Linear         VoRA, Tuna-2
    ln_linear_ln     LayerNorm of the pixels, Linear, LayerNorm, position, LayerNorm, Linear      Gemma 4 unified

The LayerNorm of a patch's pixels takes its brightness and contrast away. Weights of pixels are held as convolutions,
flattened (channel, row, column) over the whole square; the four patches of a token come one after the other.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.encoder import EncoderEmbedding
from neo_lightning.model.design.positions import POSITIONS
from neo_lightning.model.patch_embed import PatchEmbedding, merged_places, normalise


def patch_embedding(config: NeoConfig, attention: str) -> nn.Module:
    """What makes visual tokens: patches [P, values] and grids [I, 2] -> [P / 4, E]; `attention` is an encoder's."""
    design = config.design
    if design.encoder.layers:
        return EncoderEmbedding(config, attention)
    if (design.patch.kind, design.patch.position) == ("conv_gelu_conv", "rotary"):
        return PatchEmbedding(config, design.patch.side // 2)
    return PATCHES[design.patch.kind](config)


def gathered(patches: Tensor, grids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Patches four by four to a token and normalised [P, values]; places and pictures' sizes in patches [P, 2]."""
    index, places = merged_places(grids, patches.shape[0])
    pixels = patches.index_select(0, index)
    if pixels.dtype == torch.uint8:
        pixels = normalise(pixels)
    counts = grids.long().prod(-1)
    sizes = torch.repeat_interleave(grids.long(), counts, 0, output_size=patches.shape[0])
    return pixels.to(dtype), places, sizes


def square_weight(conv: nn.Conv2d) -> Tensor:
    """[C, 3 S S] of a convolution over a token's square, its columns as the four patches come."""
    weight = conv.weight
    half = weight.shape[-1] // 2
    return weight.unflatten(3, (2, half)).unflatten(2, (2, half)).permute(0, 2, 4, 1, 3, 5).flatten(1)


class SquareEmbedding(nn.Module):
    """Base of those that take a token's whole square at once."""

    def __init__(self, config: NeoConfig, width: int, *, bias: bool = True) -> None:
        super().__init__()
        patch = config.design.patch
        self.patch_embedding = nn.Conv2d(3, width, patch.side, patch.side, bias=bias)
        self.position = POSITIONS[patch.position](width, patch.table, config.rope_theta_vision)

    def forward(self, patches: Tensor, grids: Tensor) -> Tensor:
        """See `PatchEmbedding`."""
        pixels, places, sizes = gathered(patches, grids, self.patch_embedding.weight.dtype)
        squares = pixels.view(-1, 4 * pixels.shape[1])  # four patches in a row are one token's
        return self.embed(squares, places[::4] // 2, sizes[::4] // 2)

    def project(self, squares: Tensor) -> Tensor:
        """[V, 3 S S] -> [V, width]."""
        return F.linear(squares, square_weight(self.patch_embedding), self.patch_embedding.bias)

    def embed(self, squares: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
        """[V, 3 S S] pixels, their places and pictures' sizes in visual tokens [V, 2] -> [V, E]."""
        return self.position(self.project(squares), places, sizes)


class Linear(SquareEmbedding):
    """Fuyu's."""

    def __init__(self, config: NeoConfig) -> None:
        super().__init__(config, config.hidden_size, bias=config.design.patch.kind == "linear")


class ConvNorm(SquareEmbedding):
    """VoRA's."""

    def __init__(self, config: NeoConfig) -> None:
        super().__init__(config, config.patch_hidden_size)
        self.norm = nn.RMSNorm(config.patch_hidden_size, eps=config.rms_norm_eps)
        self.dense_embedding = nn.Linear(config.patch_hidden_size, config.hidden_size)

    def embed(self, squares: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
        """See `SquareEmbedding`."""
        return self.dense_embedding(self.norm(super().embed(squares, places, sizes)))


class NormLinearNorm(SquareEmbedding):
    """Gemma 4 unified's."""

    def __init__(self, config: NeoConfig) -> None:
        width = config.patch_hidden_size
        super().__init__(config, width)
        self.norm_pixels = nn.LayerNorm(3 * config.design.patch.side**2)
        self.norm_patch, self.norm_place = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dense_embedding = nn.Linear(width, config.hidden_size, bias=False)

    def embed(self, squares: Tensor, places: Tensor, sizes: Tensor) -> Tensor:
        """See `SquareEmbedding`."""
        x = self.norm_patch(self.project(self.norm_pixels(squares)))
        x = self.norm_place(self.position(x, places, sizes))
        return self.dense_embedding(F.rms_norm(x, x.shape[-1:], eps=1e-6))


class ConvGeluConv(PatchEmbedding):
    """NEO's with another position."""

    def __init__(self, config: NeoConfig) -> None:
        patch = config.design.patch
        super().__init__(config, patch.side // 2)
        self.position = POSITIONS[patch.position](config.patch_hidden_size, patch.table, config.rope_theta_vision)

    def located(self, x: Tensor, places: Tensor, grids: Tensor) -> Tensor:
        """See `PatchEmbedding`."""
        sizes = torch.repeat_interleave(grids.long(), grids.long().prod(-1), 0, output_size=x.shape[0])
        return self.position(x, places, sizes)


PATCHES: dict[str, type[nn.Module]] = {
    "conv_gelu_conv": ConvGeluConv,
    "linear": Linear,
    "linear_no_bias": Linear,
    "conv_norm": ConvNorm,
    "ln_linear_ln": NormLinearNorm,
}
