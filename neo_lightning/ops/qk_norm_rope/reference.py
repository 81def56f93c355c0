"""Per-axis QK norm and native RoPE as defined, and the rotations' table."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neo_lightning.ops.rms_norm import rms_norm_reference


class Rope(NamedTuple):
    """Rotations of every token of a row, in the columns [T | H | W] of a query or key."""

    cos: Tensor
    """[T, 2 * head_dim] float32."""
    sin: Tensor
    """[T, 2 * head_dim] float32, negative in the first half of each axis."""
    swap: Tensor
    """[8] int64: with the columns cut in 8 blocks, the order that exchanges the halves of each axis."""
    members: Tensor
    """[2 * head_dim, 4] float32: 1 where a column is of a quarter's axis, the columns being cut in 4 (T has two)."""


def rope_table(positions: Tensor, head_dim: int, theta: float, theta_hw: float) -> Rope:
    """The rotations, once per batch for all layers.

    Args:
        positions: [T, 3] integer (t, h, w).
        head_dim: width of the T axis; H and W are half as wide.
        theta, theta_hw: bases of T and of H and W; inverse frequencies are base^(-2k / width).

    Angles are float64 until after the cosine: at position 30,000 a float32 angle is off by 0.002.
    """
    device = positions.device

    def inverse(width: int, base: float) -> Tensor:
        return base ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)

    t, h, w = positions.double().unbind(-1)
    hw = inverse(head_dim // 2, theta_hw)
    angles = [t[:, None] * inverse(head_dim, theta), h[:, None] * hw, w[:, None] * hw]
    cos = [a.cos().float() for a in angles]
    sin = [a.sin().float() for a in angles]
    block = torch.arange(8, device=device)
    axis = (torch.arange(4, device=device) - 1).clamp_(0)  # 0 0 1 2; made of host values it would wait for a GPU
    members = axis.repeat_interleave(head_dim // 2)[:, None] == axis
    return Rope(
        torch.cat([x for c in cos for x in (c, c)], -1),
        torch.cat([x for s in sin for x in (-s, s)], -1),
        block ^ (2 - block // 4),  # 2 3 0 1 | 5 4 | 7 6
        members.float(),
    )


def qk_norm_rope_reference(
    x_t: Tensor, x_hw: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float
) -> Tensor:
    """See `qk_norm_rope`."""
    high = torch.promote_types(x_t.dtype, torch.float32)
    x_h, x_w = x_hw.chunk(2, -1)
    axes = [rms_norm_reference(x.to(high), w, eps) for x, w in zip((x_t, x_h, x_w), weights, strict=True)]
    exchanged = torch.cat([half for axis in axes for half in reversed(axis.chunk(2, -1))], -1)
    return (torch.cat(axes, -1) * rope.cos[:, None] + exchanged * rope.sin[:, None]).to(x_t.dtype)
