"""RMSNorm in Triton, the default on a GPU, as operators that a graph sees whole.

Kept for the backward pass: the normalised row's input and the weight.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ROWS = 16
"""Rows per program of the backward pass: each program stores a row of the weight's gradient."""


def rms_norm_triton(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `rms_norm`."""
    return torch.ops.neo_lightning.rms_norm(x, weight, eps)


def add_rms_norm_triton(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `add_rms_norm`."""
    return torch.ops.neo_lightning.add_rms_norm(x, delta, weight, eps)


def sizes(width: int) -> dict[str, int]:
    """What the kernels are compiled for."""
    wide = 1 << (width - 1).bit_length()
    return {"WIDE": wide, "num_warps": min(16, max(1, wide // 512))}


def _run_forward(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    from neo_lightning.ops.rms_norm.kernels import forward_kernel

    x, add = x.contiguous(), delta is not None
    delta = delta.contiguous() if delta is not None else x
    total, y = x.new_empty(x.shape) if add else x, x.new_empty(x.shape)
    width = x.shape[-1]
    with torch.cuda.device_of(x):
        forward_kernel[(x.numel() // width,)](x, delta, weight, total, y, width, eps, ADD=add, **sizes(width))
    return total, y


@torch.library.custom_op(
    "neo_lightning::rms_norm", mutates_args=(), schema="(Tensor x, Tensor weight, float eps) -> Tensor"
)
def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return _run_forward(x, None, weight, eps)[1]


@torch.library.custom_op(
    "neo_lightning::add_rms_norm",
    mutates_args=(),
    schema="(Tensor x, Tensor delta, Tensor weight, float eps) -> (Tensor, Tensor)",
)
def _add_norm(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return _run_forward(x, delta, weight, eps)


@torch.library.custom_op(
    "neo_lightning::rms_norm_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor? dtotal, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
)
def _backward(dy: Tensor, dtotal: Tensor | None, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Gradients of x (and of what was added to it alike) and, float32, of the weight."""
    from neo_lightning.ops.rms_norm.kernels import backward_kernel

    dy, x, add = dy.contiguous(), x.contiguous(), dtotal is not None
    dtotal = dtotal.contiguous() if dtotal is not None else dy
    width = x.shape[-1]
    rows = x.numel() // width
    programs = -(-rows // ROWS)
    dx, dw = x.new_empty(x.shape), x.new_empty(programs, width, dtype=torch.float32)
    with torch.cuda.device_of(x):
        backward_kernel[(programs,)](
            dy, dtotal, x, weight, dx, dw, rows, width, eps, ADD=add, ROWS=ROWS, **sizes(width)
        )
    return dx, dw.sum(0)


@_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@_add_norm.register_fake
def _(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@_backward.register_fake
def _(dy: Tensor, dtotal: Tensor | None, x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape[-1], dtype=torch.float32)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, ctx.eps = inputs
    ctx.save_for_backward(x, weight)


def _keep_total(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[0], inputs[2])
    ctx.eps = inputs[3]


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    dx, dw = torch.ops.neo_lightning.rms_norm_backward(dy, None, x, weight, ctx.eps)
    return dx, dw.to(weight.dtype), None


def _differentiate_sum(ctx: Any, dtotal: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
    total, weight = ctx.saved_tensors
    dx, dw = torch.ops.neo_lightning.rms_norm_backward(dy, dtotal, total, weight, ctx.eps)
    return dx, dx, dw.to(weight.dtype), None


_norm.register_autograd(_differentiate, setup_context=_keep)
_add_norm.register_autograd(_differentiate_sum, setup_context=_keep_total)
