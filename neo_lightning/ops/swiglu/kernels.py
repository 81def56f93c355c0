"""Triton kernels of the SwiGLU gate: one pass forward, one pass backward."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(gate_ptr, up_ptr, y_ptr, COUNT, BLOCK: tl.constexpr):
    """y = gate * sigmoid(gate) * up over COUNT elements."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < COUNT
    gate = tl.load(gate_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + place, (gate * tl.sigmoid(gate) * up).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(dy_ptr, gate_ptr, up_ptr, dgate_ptr, dup_ptr, COUNT, BLOCK: tl.constexpr):
    """d silu(g) / dg = s (1 + g (1 - s)) with s = sigmoid(g)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < COUNT
    dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(gate_ptr + place, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + place, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(gate)
    tl.store(dup_ptr + place, (dy * gate * s).to(dup_ptr.dtype.element_ty), mask=inside)
    dgate = dy * up * s * (1 + gate * (1 - s))
    tl.store(dgate_ptr + place, dgate.to(dgate_ptr.dtype.element_ty), mask=inside)
