"""The gate of a SwiGLU MLP in torch's own operations, its gradient written into one array.

Kept for the backward pass are gate and up, and silu(gate), which costs an exponential to make again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu_eager(gate_up: Tensor) -> Tensor:
    """See `swiglu`."""
    if not torch.is_grad_enabled():
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)
    return EagerSwiGLU.apply(gate_up)


class EagerSwiGLU(torch.autograd.Function):
    """[T, 2 F] -> [T, F]."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        opened = F.silu(gate)
        ctx.save_for_backward(gate_up, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        gate_up, opened = ctx.saved_tensors
        gate, up = gate_up.chunk(2, -1)
        d = torch.empty_like(gate_up)
        d_gate, d_up = d.chunk(2, -1)
        torch.mul(grads[0], up, out=d_gate)
        torch.ops.aten.silu_backward.grad_input(d_gate, gate, grad_input=d_gate)
        torch.mul(grads[0], opened, out=d_up)
        return d
