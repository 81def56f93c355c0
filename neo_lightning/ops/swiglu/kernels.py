"""Triton kernels of the SwiGLU gate: one pass forward, one pass backward."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _places(COUNT, F, BLOCK: tl.constexpr):
    """Where a program's elements lie among F columns, and their gates among 2 F (up is F behind its gate)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return place, place + place // F * F, place < COUNT


@triton.jit
def forward_kernel(gate_up_ptr, y_ptr, COUNT, F, BLOCK: tl.constexpr):
    """y = gate * sigmoid(gate) * up over COUNT elements, F in a row."""
    place, gate_place, inside = _places(COUNT, F, BLOCK)
    gate = tl.load(gate_up_ptr + gate_place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + gate_place + F, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + place, (gate * tl.sigmoid(gate) * up).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(dy_ptr, gate_up_ptr, d_ptr, COUNT, F, BLOCK: tl.constexpr):
    """d silu(g) / dg = s (1 + g (1 - s)) with s = sigmoid(g)."""
    place, gate_place, inside = _places(COUNT, F, BLOCK)
    dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_up_ptr + gate_place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up_ptr + gate_place + F, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(gate)
    dgate = dy * up * s * (1 + gate * (1 - s))
    tl.store(d_ptr + gate_place, dgate.to(d_ptr.dtype.element_ty), mask=inside)
    tl.store(d_ptr + gate_place + F, (dy * gate * s).to(d_ptr.dtype.element_ty), mask=inside)
