"""Per-axis QK norm and rotation in Triton, the default on a GPU: one operator for a graph, one pass over memory.

Kept for the backward pass is the projection alone, which selective recomputation keeps anyway. It may be a part of a
product: what it lies among is not copied.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from neo_lightning.ops.qk_norm_rope.reference import Rope

TOKENS, WARPS = 8, 4
"""Tokens of a program. Little, for many programs: what bounds it is memory."""


def qk_norm_rope_triton(x: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float) -> Tensor:
    """See `qk_norm_rope`."""
    return torch.ops.neo_lightning.qk_norm_rope(x, *weights, rope.turn, eps)


def sizes(heads: int, d: int) -> dict[str, int]:
    """What the kernels are compiled for."""
    wide = {name: 1 << (d // n - 1).bit_length() for name, n in (("T_WIDE", 2), ("HW_WIDE", 4))}
    return {"HEADS": heads, "D": d, "TOKENS": TOKENS, **wide, "num_warps": WARPS}


_INPUTS = "Tensor x, Tensor w_t, Tensor w_h, Tensor w_w, Tensor turn, float eps"


@torch.library.custom_op("neo_lightning::qk_norm_rope", mutates_args=(), schema=f"({_INPUTS}) -> Tensor")
def _forward(x: Tensor, w_t: Tensor, w_h: Tensor, w_w: Tensor, turn: Tensor, eps: float) -> Tensor:
    from neo_lightning.ops.qk_norm_rope.kernels import forward_kernel

    x = _rows(x)
    t, heads, width = x.shape
    out = x.new_empty(x.shape)
    with torch.cuda.device_of(x):
        forward_kernel[(-(-t // TOKENS),)](x, w_t, w_h, w_w, turn, out, t, x.stride(0), eps, **sizes(heads, width // 2))
    return out


def _rows(x: Tensor) -> Tensor:
    """Each token's heads in one piece; tokens may lie further apart."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


@_forward.register_fake
def _(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "neo_lightning::qk_norm_rope_backward", mutates_args=(), schema=f"(Tensor dout, {_INPUTS}) -> (Tensor, Tensor)"
)
def _backward(
    dout: Tensor, x: Tensor, w_t: Tensor, w_h: Tensor, w_w: Tensor, turn: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Gradients of the projection and, [2 D] float32, of the three weights."""
    from neo_lightning.ops.qk_norm_rope.kernels import backward_kernel

    dout, x = dout.contiguous(), _rows(x)
    t, heads, width = x.shape
    programs = -(-t // TOKENS)
    dx, dw = x.new_empty(x.shape), x.new_empty(programs, width, dtype=torch.float32)
    with torch.cuda.device_of(x):
        backward_kernel[(programs,)](
            dout, x, w_t, w_h, w_w, turn, dx, dw, t, x.stride(0), eps, **sizes(heads, width // 2)
        )
    return dx, dw.sum(0)


@_backward.register_fake
def _(dout: Tensor, x: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[2], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.eps = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    x, *weights, turn = ctx.saved_tensors
    dx, dw = torch.ops.neo_lightning.qk_norm_rope_backward(dout, x, *weights, turn, ctx.eps)
    dws = dw.split([w.numel() for w in weights])
    return dx, *(g.to(w.dtype) for g, w in zip(dws, weights, strict=True)), None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
