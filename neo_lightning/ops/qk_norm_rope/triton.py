"""Per-axis QK norm and rotation in Triton, the default on a GPU: one operator for a graph, one pass over memory.

Kept for the backward pass are the projections alone, which selective recomputation keeps anyway. They may be parts of
one product: what they lie among is not copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neo_lightning.ops.qk_norm_rope.reference import Rope

TOKENS, WARPS = 8, 4
"""Tokens of a program. Little, for many programs: what bounds it is memory."""


def qk_norm_rope_triton(
    x_t: Tensor, x_hw: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float
) -> Tensor:
    """See `qk_norm_rope`."""
    return torch.ops.neo_lightning.qk_norm_rope(x_t, x_hw, *weights, rope.cos, rope.sin, eps)


def sizes(heads: int, d: int) -> dict[str, int]:
    """What the kernels are compiled for."""
    wide = {name: 1 << (d // n - 1).bit_length() for name, n in (("T_WIDE", 2), ("HW_WIDE", 4))}
    return {"HEADS": heads, "D": d, "TOKENS": TOKENS, **wide, "num_warps": WARPS}


_INPUTS = "Tensor x_t, Tensor x_hw, Tensor w_t, Tensor w_h, Tensor w_w, Tensor cos, Tensor sin, float eps"


@torch.library.custom_op("neo_lightning::qk_norm_rope", mutates_args=(), schema=f"({_INPUTS}) -> Tensor")
def _forward(
    x_t: Tensor, x_hw: Tensor, w_t: Tensor, w_h: Tensor, w_w: Tensor, cos: Tensor, sin: Tensor, eps: float
) -> Tensor:
    from neo_lightning.ops.qk_norm_rope.kernels import forward_kernel

    x_t, x_hw, stride = _rows(x_t, x_hw)
    t, heads, d = x_t.shape
    out = x_t.new_empty(t, heads, 2 * d)
    with torch.cuda.device_of(x_t):
        inputs = x_t, x_hw, w_t, w_h, w_w, cos, sin
        forward_kernel[(-(-t // TOKENS),)](*inputs, out, t, stride, eps, **sizes(heads, d))
    return out


def _rows(x_t: Tensor, x_hw: Tensor) -> tuple[Tensor, Tensor, int]:
    """Both projections with each token's heads in one piece, and how far apart the tokens are, parts of one product
    as they are."""
    whole = x_t.stride()[1:] == x_hw.stride()[1:] == (x_t.shape[2], 1)
    if not whole or x_t.stride(0) != x_hw.stride(0):
        x_t, x_hw = x_t.contiguous(), x_hw.contiguous()
    return x_t, x_hw, x_t.stride(0)


@_forward.register_fake
def _(x_t: Tensor, *rest: Any) -> Tensor:
    return x_t.new_empty(x_t.shape[0], x_t.shape[1], 2 * x_t.shape[2])


@torch.library.custom_op(
    "neo_lightning::qk_norm_rope_backward",
    mutates_args=(),
    schema=f"(Tensor dout, {_INPUTS}) -> (Tensor, Tensor, Tensor)",
)
def _backward(
    dout: Tensor,
    x_t: Tensor,
    x_hw: Tensor,
    w_t: Tensor,
    w_h: Tensor,
    w_w: Tensor,
    cos: Tensor,
    sin: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of both projections and, [2 D] float32, of the three weights."""
    from neo_lightning.ops.qk_norm_rope.kernels import backward_kernel

    dout, (x_t, x_hw, stride) = dout.contiguous(), _rows(x_t, x_hw)
    t, d = x_t.shape[0], x_t.shape[2]
    programs = -(-t // TOKENS)
    dx_t, dx_hw = x_t.new_empty(x_t.shape), x_hw.new_empty(x_hw.shape)
    dw = x_t.new_empty(programs, 2 * d, dtype=torch.float32)
    with torch.cuda.device_of(x_t):
        inputs = dout, x_t, x_hw, w_t, w_h, w_w, cos, sin
        backward_kernel[(programs,)](*inputs, dx_t, dx_hw, dw, t, stride, eps, **sizes(*x_t.shape[1:]))
    return dx_t, dx_hw, dw.sum(0)


@_backward.register_fake
def _(dout: Tensor, x_t: Tensor, x_hw: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    dw = x_t.new_empty(2 * x_t.shape[2], dtype=torch.float32)
    return x_t.new_empty(x_t.shape), x_hw.new_empty(x_hw.shape), dw


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    x_t, x_hw, *weights, cos, sin = ctx.saved_tensors
    dx_t, dx_hw, dw = torch.ops.neo_lightning.qk_norm_rope_backward(dout, x_t, x_hw, *weights, cos, sin, ctx.eps)
    dws = dw.split([w.numel() for w in weights])
    return dx_t, dx_hw, *(g.to(w.dtype) for g, w in zip(dws, weights, strict=True)), None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
