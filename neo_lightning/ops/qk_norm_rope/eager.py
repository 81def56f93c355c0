"""Per-axis QK norm and native RoPE with a backward pass written out, in few passes over memory.

All three axes lie in one array z [T, N, 2 D] (D = head_dim; T | H | W, each axis two halves), normalised. With the
norms' weights w, the rotations' cosines c and signed sines s, and x' for x with the halves of every axis exchanged:

    out = z w c + (z w)' s            u = dout c + (dout s)'
    dw = sum over tokens and heads of u z         dx = r (u w - z mean over the axis of (u w z))

The weights go into the tables (one head's worth of work). No matrix-matrix products are used, so that neither TF32
nor a policy that keeps their outputs (selective recomputation) touches the norms.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neo_lightning.ops.qk_norm_rope.reference import Rope


class EagerQKNormRope(torch.autograd.Function):
    """(x_t, x_hw [T, N, D], w_t [D], w_h, w_w [D / 2], cos, sin [T, 2 D], swap [8], eps) -> [T, N, 2 D]."""

    @staticmethod
    def forward(
        ctx: Any,
        x_t: Tensor,
        x_hw: Tensor,
        w_t: Tensor,
        w_h: Tensor,
        w_w: Tensor,
        cos: Tensor,
        sin: Tensor,
        swap: Tensor,
        eps: float,
    ) -> Tensor:
        high = torch.promote_types(x_t.dtype, torch.float32)
        r_t, r_hw = _inverse_rms(x_t, 1, eps, high), _inverse_rms(x_hw, 2, eps, high)
        z = _normalised(x_t, x_hw, r_t, r_hw)
        w = torch.cat([w_t, w_h, w_w]).to(high)
        c, s = cos.to(high) * w, sin.to(high) * _exchange(w, swap)
        out = (z * c[:, None]).addcmul_(_exchange(z, swap), s[:, None])
        kept = (z,) if z.dtype == x_t.dtype else (x_t, x_hw)  # two half-wide inputs are half of z, and quickly made z
        ctx.save_for_backward(w, r_t, r_hw, cos, sin, swap, *kept)
        ctx.dtypes = x_t.dtype, w_t.dtype
        return out.to(x_t.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w, r_t, r_hw, cos, sin, swap, *kept = ctx.saved_tensors
        z = kept[0] if len(kept) == 1 else _normalised(kept[0], kept[1], r_t, r_hw)
        t, n, d = z.shape[0], z.shape[1], z.shape[2] // 2
        dout = grads[0].contiguous().to(z.dtype)
        s = _exchange(sin.to(z.dtype), swap)
        u = (dout * cos.to(z.dtype)[:, None]).addcmul_(_exchange(dout, swap), s[:, None])
        product = (u * z).view(t * n, 2 * d)
        dws: tuple[Tensor | None, ...] = (None, None, None)
        if any(ctx.needs_input_grad[2:5]):
            dws = product.sum(0).to(ctx.dtypes[1]).split([d, d // 2, d // 2])
        h, v = slice(d, d + d // 2), slice(d + d // 2, 2 * d)
        mean_t = product[:, :d].mv(w[:d] / d)
        mean_hw = torch.stack([product[:, x].mv(w[x] * 2 / d) for x in (h, v)], -1)
        dz = u.mul_(w)
        dx_t = torch.addcmul(dz[..., :d], z[..., :d], mean_t.view(t, n, 1), value=-1).mul_(r_t)
        dz_hw, z_hw = (x[..., d:].unflatten(-1, (2, -1)) for x in (dz, z))
        dx_hw = torch.addcmul(dz_hw, z_hw, mean_hw.view(t, n, 2, 1), value=-1).mul_(r_hw[..., None]).flatten(-2)
        return dx_t.to(ctx.dtypes[0]), dx_hw.to(ctx.dtypes[0]), *dws, None, None, None, None


def qk_norm_rope_eager(
    x_t: Tensor, x_hw: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float
) -> Tensor:
    """See `qk_norm_rope`."""
    return EagerQKNormRope.apply(x_t, x_hw, *weights, *rope, eps)


def _normalised(x_t: Tensor, x_hw: Tensor, r_t: Tensor, r_hw: Tensor) -> Tensor:
    """z [T, N, 2 D] without the norms' weights."""
    return torch.cat([x_t * r_t, (x_hw.unflatten(-1, (2, -1)) * r_hw[..., None]).flatten(-2)], -1)


def _exchange(x: Tensor, swap: Tensor) -> Tensor:
    """x [..., 2 D] with the two halves of each axis exchanged."""
    return x.unflatten(-1, (8, -1)).index_select(x.dim() - 1, swap).flatten(-2)


def _inverse_rms(x: Tensor, axes: int, eps: float, dtype: torch.dtype) -> Tensor:
    """[T, N, axes * width] -> 1/sqrt(mean(x^2) + eps) of each axis, [T, N, axes]."""
    parts = x.unflatten(-1, (axes, -1))
    length = torch.linalg.vector_norm(parts, dim=-1, dtype=dtype)
    return length.square_().div_(parts.shape[-1]).add_(eps).rsqrt_()
