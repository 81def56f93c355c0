"""The SwiGLU gate in Triton, the default on a GPU: an operator that keeps its input alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK, WARPS = 2048, 8
"""Elements and warps of a program: 16 bytes a thread in bfloat16."""


def swiglu_triton(gate_up: Tensor) -> Tensor:
    """See `swiglu`."""
    return torch.ops.neo_lightning.swiglu(gate_up)


@torch.library.custom_op("neo_lightning::swiglu", mutates_args=(), schema="(Tensor gate_up) -> Tensor")
def _forward(gate_up: Tensor) -> Tensor:
    from neo_lightning.ops.swiglu.kernels import forward_kernel

    gate_up = gate_up.contiguous()
    y = _half(gate_up)
    with torch.cuda.device_of(y):
        forward_kernel[_programs(y)](gate_up, y, y.numel(), y.shape[-1], BLOCK=BLOCK, num_warps=WARPS)
    return y


@torch.library.custom_op(
    "neo_lightning::swiglu_backward", mutates_args=(), schema="(Tensor dy, Tensor gate_up) -> Tensor"
)
def _backward(dy: Tensor, gate_up: Tensor) -> Tensor:
    from neo_lightning.ops.swiglu.kernels import backward_kernel

    dy, gate_up = dy.contiguous(), gate_up.contiguous()
    d = torch.empty_like(gate_up)
    with torch.cuda.device_of(dy):
        backward_kernel[_programs(dy)](dy, gate_up, d, dy.numel(), dy.shape[-1], BLOCK=BLOCK, num_warps=WARPS)
    return d


def _half(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)


def _programs(y: Tensor) -> tuple[int]:
    return (-(-y.numel() // BLOCK),)


@_forward.register_fake
def _(gate_up: Tensor) -> Tensor:
    return _half(gate_up)


@_backward.register_fake
def _(dy: Tensor, gate_up: Tensor) -> Tensor:
    return gate_up.new_empty(gate_up.shape)


def _keep(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, dy: Tensor) -> Tensor:
    return torch.ops.neo_lightning.swiglu_backward(dy, *ctx.saved_tensors)


_forward.register_autograd(_differentiate, setup_context=_keep)
