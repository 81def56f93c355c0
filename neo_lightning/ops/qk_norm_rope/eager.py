"""Per-axis QK norm and native RoPE with a backward pass written out, in few passes over memory.

All three axes lie in one array z [T, N, 2 D] (D = head_dim; T | H | W, each axis two halves), normalised. With the
norms' weights w, the rotations' cosines c and signed sines s, and x' for x with the halves of every axis exchanged:

    out = z w c + (z w)' s            u = dout c + (dout s)'
    dw = sum over tokens and heads of u z         dx = r (u w - z mean over the axis of (u w z))

The weights go into the tables (one head's worth of work). Means over an axis are products with `members`, a quarter of
the columns each (T is two of them): a product reads the array once where a reduction over few columns is slow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neo_lightning.ops.precision import full_float32
from neo_lightning.ops.qk_norm_rope.reference import Rope


class EagerQKNormRope(torch.autograd.Function):
    """(x_t, x_hw [T, N, D], w_t [D], w_h, w_w [D / 2], cos, sin [T, 2 D], swap [8], members [2 D, 4], eps)
    -> [T, N, 2 D]."""

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
        members: Tensor,
        eps: float,
    ) -> Tensor:
        high = torch.promote_types(x_t.dtype, torch.float32)
        z, members = torch.cat([x_t, x_hw], -1).to(high), members.to(high)
        r = _means(z * z, members, members).add_(eps).rsqrt_()
        _quarters(z).mul_(r)
        w = torch.cat([w_t, w_h, w_w]).to(high)
        c, s = cos.to(high) * w, sin.to(high) * _exchange(w, swap)
        out = (z * c[:, None]).addcmul_(_exchange(z, swap), s[:, None])
        kept = (z,) if z.dtype == x_t.dtype else (x_t, x_hw)  # two half-wide inputs are half of z, and quickly made z
        ctx.save_for_backward(w, r, cos, sin, swap, members, *kept)
        ctx.dtypes = x_t.dtype, w_t.dtype
        return out.to(x_t.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w, r, cos, sin, swap, members, *kept = ctx.saved_tensors
        z = kept[0]
        if len(kept) == 2:
            z = torch.cat(kept, -1).to(w.dtype)
            _quarters(z).mul_(r)
        d = z.shape[-1] // 2
        dout = grads[0].contiguous().to(z.dtype)
        s = _exchange(sin.to(z.dtype), swap)
        u = (dout * cos.to(z.dtype)[:, None]).addcmul_(_exchange(dout, swap), s[:, None])
        product = u * z
        dws: tuple[Tensor | None, ...] = (None, None, None)
        if any(ctx.needs_input_grad[2:5]):
            dws = product.flatten(0, 1).sum(0).to(ctx.dtypes[1]).split([d, d // 2, d // 2])
        means = _means(product, members * w[:, None], members)
        dz = u.mul_(w)
        _quarters(dz).addcmul_(_quarters(z), means, value=-1).mul_(r)
        dx_t, dx_hw = dz.to(ctx.dtypes[0]).chunk(2, -1)
        return dx_t, dx_hw, *dws, None, None, None, None, None


def qk_norm_rope_eager(
    x_t: Tensor, x_hw: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float
) -> Tensor:
    """See `qk_norm_rope`."""
    return EagerQKNormRope.apply(x_t, x_hw, *weights, *rope, eps)


def _quarters(x: Tensor) -> Tensor:
    """[T, N, 2 D] -> the same memory as [T, N, 4, D / 2]."""
    return x.unflatten(-1, (4, -1))


def _means(x: Tensor, weights: Tensor, members: Tensor) -> Tensor:
    """x [T, N, 2 D], weighted [2 D, 4], averaged over the axis of each quarter: [T, N, 4, 1]."""
    # not in place: selective recomputation keeps what products give, and refuses to see it changed
    with full_float32():
        means = x.flatten(0, 1).mm(weights) / members.sum(0)
    return means.view(*x.shape[:2], 4, 1)


def _exchange(x: Tensor, swap: Tensor) -> Tensor:
    """x [..., 2 D] with the two halves of each axis exchanged."""
    return x.unflatten(-1, (8, -1)).index_select(x.dim() - 1, swap).flatten(-2)
