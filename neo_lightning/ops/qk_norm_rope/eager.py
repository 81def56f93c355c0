"""Per-axis QK norm and native RoPE with a backward pass written out, in few passes over memory.

All three axes lie in one array x [T, N, 2 D] (D = head_dim), pairs side by side. With z for x normalised, r for the
axes' 1 / sqrt(mean square + eps), w for the norms' weights and t for the rotations as complex numbers:

    out = (z w) t                     u = dout conj(t)
    dw = sum over tokens and heads of u z         dx = r (u w - z mean over the axis of (u w z))

Means over an axis are products with `members`, for a quarter of the columns each (T is two of them): a product reads
the array once where a reduction over few columns is slow.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neo_lightning.ops.precision import full_float32
from neo_lightning.ops.qk_norm_rope.reference import Rope, paired_weights


class EagerQKNormRope(torch.autograd.Function):
    """(x [T, N, 2 D], w_t [D], w_h, w_w [D / 2], turn [T, D, 2], members [2 D, 4], eps) -> [T, N, 2 D]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, w_t: Tensor, w_h: Tensor, w_w: Tensor, turn: Tensor, members: Tensor, eps: float
    ) -> Tensor:
        out, w, r, turn, members, z = _forward(x, (w_t, w_h, w_w), turn, members, eps)
        ctx.save_for_backward(w, r, turn, members, z if z.dtype == x.dtype else x)  # from half as wide it is soon made
        ctx.dtypes = x.dtype, w_t.dtype
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        w, r, turn, members, z = ctx.saved_tensors
        if z.dtype != w.dtype:
            z = (_quarters(z.to(w.dtype)) * r).flatten(-2)
        back = torch.view_as_complex(turn).conj().resolve_conj()
        u = _complex(grads[0].contiguous().to(z.dtype)) * back[:, None]
        du = torch.view_as_real(u).flatten(-2)
        product = du * z
        dws: tuple[Tensor | None, ...] = (None, None, None)
        if any(ctx.needs_input_grad[1:4]):
            d = w.numel() // 2
            dw = product.flatten(0, 1).sum(0).to(ctx.dtypes[1])
            dws = tuple(part.view(-1, 2).t().flatten() for part in dw.split([d, d // 2, d // 2]))
        means = _means(product, members * w[:, None])
        dx = du.mul_(w)
        _quarters(dx).addcmul_(_quarters(z), means, value=-1).mul_(r)
        return dx.to(ctx.dtypes[0]), *dws, None, None, None


def qk_norm_rope_eager(x: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float) -> Tensor:
    """See `qk_norm_rope`."""
    if not torch.is_grad_enabled():
        return _forward(x, weights, *rope, eps)[0]
    return EagerQKNormRope.apply(x, *weights, *rope, eps)


def few_norm_rope(x: Tensor, w: Tensor, rope: Rope, eps: float) -> Tensor:
    """Queries and keys of few tokens at once: `qk_norm_rope` without a gradient, in as few operations as there can be.

    Args:
        x: [T, N, 2 * head_dim], the heads of both.
        w: [N, 2 * head_dim], each head's weights as `paired_weights` makes them, float32 or wider.
        rope, eps: see there.
    """
    z = x if x.dtype == w.dtype else x.to(w.dtype)
    r = _means(z * z, rope.members if rope.members.dtype == w.dtype else rope.members.to(w.dtype)).add_(eps).rsqrt_()
    t, n, width = z.shape
    z = (z.view(t, n, 4, -1) * r).view(t, n, width).mul_(w)
    turn = torch.view_as_complex(rope.turn if rope.turn.dtype == w.dtype else rope.turn.to(w.dtype))[:, None]
    out = torch.view_as_real(torch.view_as_complex(z.view(t, n, -1, 2)).mul_(turn)).view(t, n, width)
    return out if out.dtype == x.dtype else out.to(x.dtype)


def _forward(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], turn: Tensor, members: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The output, and what it was made of: w, r, turn, members, z."""
    high = torch.promote_types(x.dtype, torch.float32)
    w, turn, members = paired_weights(weights).to(high), turn.to(high), members.to(high)
    z = x.to(high)
    r = _means(z * z, members).add(eps).rsqrt_()  # a new tensor: selective recomputation keeps the means
    z = (_quarters(z) * r).flatten(-2)
    out = _complex(z * w) * torch.view_as_complex(turn)[:, None]
    return torch.view_as_real(out).flatten(-2).to(x.dtype), w, r, turn, members, z


def _complex(x: Tensor) -> Tensor:
    """[..., 2 n] -> the same memory as n complex numbers."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _quarters(x: Tensor) -> Tensor:
    """[T, N, 2 D] -> the same memory as [T, N, 4, D / 2]."""
    return x.unflatten(-1, (4, -1))


def _means(x: Tensor, members: Tensor) -> Tensor:
    """x [T, N, 2 D] averaged over the axis of each quarter: [T, N, 4, 1]. Selective recomputation keeps it as it is."""
    with full_float32():
        return x.reshape(-1, x.shape[-1]).mm(members).view(*x.shape[:2], 4, 1)
