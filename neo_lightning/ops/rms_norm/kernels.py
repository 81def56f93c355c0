"""Triton kernels of RMSNorm, with the residual stream's addition before it: a program takes whole rows.

The backward pass walks over a fixed number of rows per program, adds up the weight's gradient in registers and stores
one row of it, to be summed by the caller: the same bits every time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def forward_kernel(x_ptr, delta_ptr, w_ptr, total_ptr, y_ptr, E, eps, ADD: tl.constexpr, WIDE: tl.constexpr):
    """y = norm(total) * w, total = x + delta stored in x's dtype first (ADD) or x itself; [N, E], grid (N)."""
    column = tl.arange(0, WIDE)
    inside = column < E
    place = tl.program_id(0).to(tl.int64) * E + column
    x = tl.load(x_ptr + place, mask=inside, other=0.0)
    if ADD:
        delta = tl.load(delta_ptr + place, mask=inside, other=0.0)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x_ptr.dtype.element_ty)
        tl.store(total_ptr + place, x, mask=inside)
    x = x.to(tl.float32)
    r = tl.rsqrt(tl.sum(x * x) / E + eps)
    w = tl.load(w_ptr + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(y_ptr + place, (x * r * w).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    dy_ptr,
    dtotal_ptr,
    x_ptr,
    w_ptr,
    dx_ptr,
    dw_ptr,
    N,
    E,
    eps,
    ADD: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """dx [N, E], with the gradient of `total` itself added (ADD); dw [programs, E] float32, one row per program."""
    column = tl.arange(0, WIDE)
    inside = column < E
    w = tl.load(w_ptr + column, mask=inside, other=0.0).to(tl.float32)
    dw = tl.zeros([WIDE], tl.float32)
    first = tl.program_id(0) * ROWS
    for row in range(first, tl.minimum(first + ROWS, N)):
        place = tl.cast(row, tl.int64) * E + column
        x = tl.load(x_ptr + place, mask=inside, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + place, mask=inside, other=0.0).to(tl.float32)
        r = tl.rsqrt(tl.sum(x * x) / E + eps)
        z = x * r
        dw += dy * z
        g = dy * w
        dx = (g - z * (tl.sum(g * z) / E)) * r
        if ADD:
            dx += tl.load(dtotal_ptr + place, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx_ptr + place, dx.to(dx_ptr.dtype.element_ty), mask=inside)
    tl.store(dw_ptr + tl.program_id(0).to(tl.int64) * E + column, dw, mask=inside)
