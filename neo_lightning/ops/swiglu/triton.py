"""The SwiGLU gate in Triton, the default on a GPU: an operator that keeps gate and up alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK, WARPS = 2048, 8
"""Elements and warps of a program: 16 bytes a thread in bfloat16."""


def swiglu_triton(gate: Tensor, up: Tensor) -> Tensor:
    """See `swiglu`."""
    return torch.ops.neo_lightning.swiglu(gate, up)


@torch.library.custom_op("neo_lightning::swiglu", mutates_args=(), schema="(Tensor gate, Tensor up) -> Tensor")
def _forward(gate: Tensor, up: Tensor) -> Tensor:
    from neo_lightning.ops.swiglu.kernels import forward_kernel

    gate, up = gate.contiguous(), up.contiguous()
    y, count = gate.new_empty(gate.shape), gate.numel()
    with torch.cuda.device_of(gate):
        forward_kernel[(-(-count // BLOCK),)](gate, up, y, count, BLOCK=BLOCK, num_warps=WARPS)
    return y


@torch.library.custom_op(
    "neo_lightning::swiglu_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor gate, Tensor up) -> (Tensor, Tensor)",
)
def _backward(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    from neo_lightning.ops.swiglu.kernels import backward_kernel

    dy, gate, up = dy.contiguous(), gate.contiguous(), up.contiguous()
    dgate, dup, count = gate.new_empty(gate.shape), gate.new_empty(gate.shape), gate.numel()
    with torch.cuda.device_of(gate):
        backward_kernel[(-(-count // BLOCK),)](dy, gate, up, dgate, dup, count, BLOCK=BLOCK, num_warps=WARPS)
    return dgate, dup


@_forward.register_fake
def _(gate: Tensor, up: Tensor) -> Tensor:
    return gate.new_empty(gate.shape)


@_backward.register_fake
def _(dy: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ops.neo_lightning.swiglu_backward(dy, *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_keep)
