"""Per-axis QK norm and native RoPE as defined, with one rotation for the three axes."""

from __future__ import annotations

import torch
from torch import Tensor

from neo_lightning.ops.rms_norm import rms_norm


def rope_table(positions: Tensor, head_dim: int, theta: float, theta_hw: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every rotation, once per batch.

    Args:
        positions: [T, 3] integer (t, h, w).
        head_dim: width of the T axis; H and W are half as wide.
        theta, theta_hw: bases of T and of H and W; inverse frequencies are base^(-2k / width).

    Returns:
        cos and sin, each [T, head_dim] float32: columns [T (head_dim / 2) | H (head_dim / 4) | W (head_dim / 4)].
        Angles are float64 until after the cosine: at position 30,000 a float32 angle is off by 0.002.
    """
    device = positions.device

    def inverse(width: int, base: float) -> Tensor:
        return base ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)

    hw = inverse(head_dim // 2, theta_hw)
    frequencies = torch.cat([inverse(head_dim, theta), hw, hw])
    widths = torch.tensor([head_dim // 2, head_dim // 4, head_dim // 4], device=device)
    axis = torch.repeat_interleave(torch.arange(3, device=device), widths, output_size=head_dim)
    angles = positions.double()[:, axis] * frequencies
    return angles.cos().float(), angles.sin().float()


def qk_norm_rope_reference(
    x_t: Tensor, x_hw: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: tuple[Tensor, Tensor], eps: float
) -> Tensor:
    """See `qk_norm_rope`."""
    high = torch.promote_types(x_t.dtype, torch.float32)
    t1, t2 = rms_norm(x_t.to(high), weights[0], eps).chunk(2, -1)
    x_h, x_w = x_hw.to(high).chunk(2, -1)
    h1, h2 = rms_norm(x_h, weights[1], eps).chunk(2, -1)
    w1, w2 = rms_norm(x_w, weights[2], eps).chunk(2, -1)
    first, second = torch.cat([t1, h1, w1], -1), torch.cat([t2, h2, w2], -1)
    cos, sin = rope[0][:, None], rope[1][:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x_t.dtype)
