"""Per-axis QK norm and native RoPE as defined, the rotations' table, and how queries and keys are laid out.

An axis of width n rotates its columns i and i + n / 2 against each other. Here such pairs are neighbours, so that a
rotation is a complex product and nothing has to be exchanged:

    released   T_0 .. T_D-1 | H_0 .. | W_0 ..          rows of q_proj (T) and q_proj_hw (H, W)
    paired     T_0 T_D/2  T_1 T_D/2+1 .. | H_0 H_D/4 .. | W_0 W_D/4 ..

Queries and keys meet in inner products alone, which do not see the order. The weights stay in the released one:
`projection_order` says which row of theirs makes each column.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from neo_lightning.ops.joint_linear import Order
from neo_lightning.ops.rms_norm import rms_norm_reference


class Rope(NamedTuple):
    """Rotations of every token of a row, in the paired columns [T | H | W] of a query or key."""

    turn: Tensor
    """[T, head_dim, 2] float32: cosine and sine of each pair's angle."""
    members: Tensor
    """[2 * head_dim, 4] float32: what a column adds to the mean over a quarter's axis, the columns being cut in 4."""


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
    angles = torch.cat([t[:, None] * inverse(head_dim, theta), h[:, None] * hw, w[:, None] * hw], -1)
    axis = (torch.arange(4, device=device) - 1).clamp_(0)  # 0 0 1 2; made of host values it would wait for a GPU
    members = (axis.repeat_interleave(head_dim // 2)[:, None] == axis).float()  # T has two quarters
    return Rope(torch.stack([angles.cos().float(), angles.sin().float()], -1), members / members.sum(0))


def projection_order(heads: int, kv_heads: int, head_dim: int, device: torch.device) -> Order:
    """Rows of the stacked projections [q; q_hw; k; k_hw; v] in the order [q | k | v], q and k paired, head by head."""
    d = head_dim

    def paired(first: int, width: int) -> Tensor:
        column = torch.arange(width, device=device)
        return first + column % 2 * (width // 2) + column // 2

    released = torch.cat([paired(0, d), paired(d, d // 2), paired(d + d // 2, d // 2)])

    def rows(first: int, n: int) -> Tensor:
        """Of n heads, whose T begins at `first` and whose H and W n * d later."""
        head = torch.arange(n, device=device)[:, None] * d
        return (first + head + released + (released >= d) * (n * d - d)).flatten()

    values = 2 * (heads + kv_heads) * d + torch.arange(kv_heads * d, device=device)
    index = torch.cat([rows(0, heads), rows(2 * heads * d, kv_heads), values])
    inverse = torch.empty_like(index)
    inverse[index] = torch.arange(index.numel(), device=device)
    return Order(index, inverse)


def paired_weights(weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Norm weights of T [D], H and W [D / 2] -> [2 D] in the paired order."""
    return torch.cat([w.view(2, -1).t().flatten() for w in weights])


def qk_norm_rope_reference(x: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float) -> Tensor:
    """See `qk_norm_rope`."""
    high, widths = torch.promote_types(x.dtype, torch.float32), [w.numel() for w in weights]
    axes = zip(x.to(high).split(widths, -1), paired_weights(weights).split(widths), strict=True)
    z = torch.cat([rms_norm_reference(axis, weight, eps) for axis, weight in axes], -1)
    first, second = z.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = rope.turn[:, None].unbind(-1)
    return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2).to(x.dtype)
