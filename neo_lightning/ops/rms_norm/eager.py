"""RMSNorm with a backward pass written out: half the memory passes of what autograd derives from the definition.

With r = 1/sqrt(mean(x^2) + eps), y = x r w and g = dy w:

    dx = r g - x r^3 mean(g x)         dw = sum over rows of dy x r

Both sums are products of the one matrix dy * x with a vector. Kept for the backward pass: x, w and r. Behind a sum
x + delta, the sum's own gradient joins dx in place, and both summands get the same tensor.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rms_norm_eager(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `rms_norm`."""
    if not torch.is_grad_enabled():
        return _normed(x, weight, eps)[0]
    return EagerRMSNorm.apply(x.reshape(-1, x.shape[-1]), weight, eps).view(x.shape)


def add_rms_norm_eager(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `add_rms_norm`."""
    if not torch.is_grad_enabled():
        total = x + delta
        return total, _normed(total, weight, eps)[0]
    width = x.shape[-1]
    total, y = EagerAddRMSNorm.apply(x.reshape(-1, width), delta.reshape(-1, width), weight, eps)
    return total.view(x.shape), y.view(x.shape)


class EagerRMSNorm(torch.autograd.Function):
    """(x [N, E], weight [E], eps) -> [N, E]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return _forward(ctx, x, weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        dx, dw = _backward(ctx, grads[0], ctx.needs_input_grad[1])
        return dx, dw, None


class EagerAddRMSNorm(torch.autograd.Function):
    """(x [N, E], delta [N, E], weight [E], eps) -> x + delta and its norm, [N, E] each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + delta
        return total, _forward(ctx, total, weight, eps)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        dx, dw = _backward(ctx, grads[1], ctx.needs_input_grad[2])
        dx = dx.add_(grads[0])
        return dx, dx, dw, None


def _forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    y, r = _normed(x, weight, eps)
    ctx.save_for_backward(x, weight, r)
    return y


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The norm of x and r; without a gradient nothing else is done, which is what counts for few rows."""
    high = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=high)
    r = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * r).mul_(weight).to(x.dtype), r


def _backward(ctx: Any, dy: Tensor, needs_dw: bool) -> tuple[Tensor, Tensor | None]:
    x, weight, r = ctx.saved_tensors
    dy, w = dy.to(r.dtype), weight.to(r.dtype)
    product = dy * x
    dw = product.t().mv(r[:, 0]).to(weight.dtype) if needs_dw else None
    inner = product.mv(w)[:, None].mul_(r * r).div_(-x.shape[-1])
    dx = (dy * w).addcmul_(x.to(r.dtype), inner).mul_(r)
    return dx.to(x.dtype), dw
