"""Pixels -> visual tokens: Conv2(GELU(Conv1(patch)) rotated by its place), for a ragged batch of images at once.

Both convolutions have kernel = stride, so each is one matmul over rows: Conv1 over [P, 768] patches, Conv2 over the
[V, 4 * C] groups of 2 x 2. The groups are gathered from the pixels, not from Conv1's output: patches carry no
gradient, so the backward pass has no scatter. No image is padded and nothing loops over images; the places come from
the grids by cumulative sums.

    patches of a 2 x 4 grid        order after the gather        visual tokens
      0 1 2 3                        0 1 4 5 | 2 3 6 7               0 1
      4 5 6 7
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.low_rank import as_matrix, low_rank

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(patches: Tensor) -> Tensor:
    """[P, 768] uint8 RGB patches (channel, row, column) -> float32, with the ImageNet mean and deviation."""
    # filled by kernels: an array made of host values would have the host wait for the device
    mean, deviation = (
        torch.cat([torch.full((patches.shape[1] // 3,), value, device=patches.device) for value in values])
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return torch.addcmul(-mean / deviation, patches.float(), 1 / (255 * deviation))


def merged_places(grids: Tensor, patches: int, first_row: int = 0) -> tuple[Tensor, Tensor]:
    """Where the patches of each visual token lie.

    Args:
        grids: [I, 2] rows and columns of each image in patches, both even.
        patches: their total P (given, so that nothing waits for the device).
        first_row: rows of patches that the first image has in front of those that are here.

    Returns:
        index [P] into the patches, so that four in a row make a visual token (top left, top right, bottom left,
        bottom right), and (row, column) [P, 2] of each patch in that order, on its whole image's patch grid.
    """
    sizes = grids.long().prod(-1)
    first = sizes.cumsum(0) - sizes
    unit = torch.repeat_interleave(torch.arange(sizes.numel(), device=grids.device), sizes, output_size=patches)
    within = torch.arange(patches, device=grids.device) - first[unit]
    token, corner = within // 4, within % 4
    columns = grids.long()[:, 1][unit]
    row = token // (columns // 2) * 2 + corner // 2
    column = token % (columns // 2) * 2 + corner % 2
    return first[unit] + row * columns + column, torch.stack([row + first_row * (unit == 0), column], -1)


def rotate_2d(x: Tensor, places: Tensor, theta: float) -> Tensor:
    """2D rotary embedding with interleaved pairs, in float32.

    Args:
        x: [P, C]; channels 0..C/2 rotate by the column, the others by the row; pairs are (2k, 2k + 1).
        places: [P, 2] (row, column).
        theta: base; inverse frequencies are theta^(-2k / (C / 2)).

    Returns:
        [P, C] in the dtype of `x`.
    """
    half = x.shape[1] // 2
    frequencies = theta ** (-torch.arange(0, half, 2, dtype=torch.float64, device=x.device) / half)
    angles = (places.flip(-1).double()[:, :, None] * frequencies).flatten(1).to(torch.float32)
    turn = torch.polar(torch.ones_like(angles), angles)  # [P, C/2] complex
    pairs = torch.view_as_complex(x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x.dtype)


class PatchEmbedding(nn.Module):
    """Patches of any number of images of any size -> one vector per 32 x 32 pixels."""

    def __init__(self, config: NeoConfig, side: int = 16) -> None:
        """`side`: pixels of a patch's side."""
        super().__init__()
        self.theta = config.rope_theta_vision
        # Conv2d holds the weights in the released layout; the forward pass reads them as matrices.
        self.patch_embedding = nn.Conv2d(3, config.patch_hidden_size, side, side)
        self.dense_embedding = nn.Conv2d(config.patch_hidden_size, config.hidden_size, 2, 2)

    def forward(self, patches: Tensor, grids: Tensor, first_row: int = 0) -> Tensor:
        """Embed.

        Args:
            patches: [P, 768] uint8, or already normalised floats; image after image, row-major on the patch grid.
            grids: [I, 2] rows and columns of each image in patches.
            first_row: rows of patches that the first image has in front of those that are here.

        Returns:
            [P / 4, E] visual tokens, image after image, row-major.
        """
        index, places = merged_places(grids, patches.shape[0], first_row)
        pixels = patches.index_select(0, index)
        if pixels.dtype == torch.uint8:
            pixels = normalise(pixels)
        conv1, conv2 = self.patch_embedding, self.dense_embedding
        x_PC = F.gelu(_convolved(pixels.to(conv1.weight.dtype), conv1, as_matrix))
        x_PC = self.located(x_PC, places, grids)
        return _convolved(x_PC.view(-1, 4 * x_PC.shape[1]), conv2, _channels_last)

    def located(self, x_PC: Tensor, places: Tensor, grids: Tensor) -> Tensor:
        """[P, C] patches at places [P, 2] -> the same, told where they are."""
        return rotate_2d(x_PC, places, self.theta)


def _channels_last(weight: Tensor) -> Tensor:
    """[F, C, row, column] -> [F, (row, column, C)]."""
    return weight.permute(0, 2, 3, 1).flatten(1)


def _convolved(x: Tensor, conv: nn.Conv2d, rows: Callable[[Tensor], Tensor]) -> Tensor:
    """[T, E] -> [T, F] by a convolution's weight as a matrix, with its low-rank term where it has one."""
    y, plus = F.linear(x, rows(conv.weight), conv.bias), low_rank(x, (conv,), rows=rows)
    return y if plus is None else y + plus
