"""Rotations of the arms: for each pair of columns, which axis turns it and with which base.

T's columns hold head_dim / 2 pairs; their frequencies base^(-2k / head_dim) fall with k. Of 8 pairs:

    kind             k = 0 .. 7              positions (see `neo_lightning.sequence`)
    native, 1d       t t t t t t t t         native; index
    m                t t h h h w w w         grid       Qwen2-VL's shares 1/4, 3/8, 3/8
    interleaved_m    t h w t h w t t         grid       Qwen3-VL's shares 3/8, 5/16, 5/16, spread over the frequencies
    mm               t t h h h w w w         grid       Lumos-1's 2:3:3, again in every 8 pairs
    video            h w h w h w t t         centred    VideoRoPE: t has the lowest frequencies

H's and W's columns, where there are any, turn by h and w under every kind.
Not here: Lumos-1's scaling of positions (there is no latent to scale to) and VideoRoPE's step of two for a frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neo_lightning.model.config import NeoConfig
from neo_lightning.ops.joint_linear import Order
from neo_lightning.ops.qk_norm_rope import Rope, paired_weights
from neo_lightning.ops.rms_norm import rms_norm


def axes_of_pairs(kind: str, pairs: int, sections: tuple[int, int, int] | None = None) -> list[int]:
    """Which of t, h, w (0, 1, 2) turns each pair of T's columns, highest frequency first."""
    t = pairs // 4
    if kind == "m":
        a, b, c = sections or (t, (pairs - t) // 2, pairs - t - (pairs - t) // 2)
        return [0] * a + [1] * b + [2] * c
    if kind == "interleaved_m":
        _, b, c = sections or (0, 5 * pairs // 16, 5 * pairs // 16)
        return [axis if axis and k // 3 < (b, c)[axis - 1] else 0 for k in range(pairs) for axis in [k % 3]]
    if kind == "mm":
        return [(0, 0, 1, 1, 1, 2, 2, 2)[k % 8] for k in range(pairs)]
    if kind == "video":
        return [1 + k % 2 for k in range(pairs - t)] + [0] * t
    return [0] * pairs


def design_rope(config: NeoConfig, positions: Tensor) -> Rope:
    """Rotations of tokens at positions [T, 3], in the columns that the design has (see `ops.qk_norm_rope`)."""
    rope, device, d = config.design.rope, positions.device, config.head_dim
    bases = [rope.theta.get(axis, config.rope_theta) for axis in "thw"]
    axes = axes_of_pairs(rope.kind, d // 2, rope.sections)
    exponents = [2 * k / d for k in range(d // 2)]
    if config.design.hw_heads:
        bases += [rope.theta.get(axis, config.rope_theta_hw) for axis in "hw"]
        axes += [3] * (d // 4) + [4] * (d // 4)
        exponents += [4 * k / d for k in range(d // 4)] * 2
    base = torch.tensor([bases[axis] for axis in axes], dtype=torch.float64, device=device)
    frequencies = base ** -torch.tensor(exponents, dtype=torch.float64, device=device)
    place = positions.double()[:, torch.tensor([(0, 1, 2, 1, 2)[axis] for axis in axes], device=device)]
    angles = place * frequencies
    members = torch.ones(d, 4, device=device) / d
    if config.design.hw_heads:
        axis = torch.tensor([0, 0, 1, 2], device=device)
        members = (axis.repeat_interleave(d // 2)[:, None] == axis).float()
        members = members / members.sum(0)
    return Rope(torch.stack([angles.cos().float(), angles.sin().float()], -1), members)


def norm_rope(x: Tensor, weight: Tensor, rope: Rope, eps: float) -> Tensor:
    """Queries or keys [T, N, head_dim] in paired columns without H and W: normalised, turned."""
    high = torch.promote_types(x.dtype, torch.float32)
    z = rms_norm(x.to(high), paired_weights((weight,)).to(high), eps)  # type: ignore[arg-type]
    turned = torch.view_as_complex(z.unflatten(-1, (-1, 2)).contiguous()) * torch.view_as_complex(rope.turn)[:, None]
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def plain_order(config: NeoConfig, device: torch.device) -> Order:
    """`projection_order` of the stacked projections [q; k; v] without H and W."""
    d = config.head_dim
    heads = config.num_attention_heads + config.num_key_value_heads
    column = torch.arange(d, device=device)
    paired = column % 2 * (d // 2) + column // 2
    qk = (torch.arange(heads, device=device)[:, None] * d + paired).flatten()
    rows = torch.cat([qk, heads * d + torch.arange(config.num_key_value_heads * d, device=device)])
    return Order(rows, rows.argsort())
