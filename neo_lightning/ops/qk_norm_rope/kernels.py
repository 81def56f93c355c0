"""Triton kernels of per-axis QK norm and rotation: each projection is read once, each result written once.

A program takes a few tokens with all their heads, one axis after the other; the rotations of its tokens and the norms'
weights stay in registers. An axis of width 2 n is two halves of n columns, low and high, rotated against each other.
With z for the normalised axis, c and s for cosine and sine:

    out_low = z_low w_low c - z_high w_high s        out_high = z_high w_high c + z_low w_low s

The backward pass turns the gradient back, adds up the weights' gradients over its tokens and heads in registers, and
stores one row of them per program, to be summed by the caller: the same bits every time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _rotation(
    cos_ptr, sin_ptr, token, inside, FIRST: tl.constexpr, HALF: tl.constexpr, WIDE: tl.constexpr, TABLE: tl.constexpr
):
    """[TOKENS, WIDE] cosine and sine of the axis whose columns begin at FIRST; the table's sines are signed."""
    column = tl.arange(0, WIDE)
    place = token[:, None] * TABLE + FIRST + HALF + column[None, :]
    mask = inside[:, None] & (column < HALF)[None, :]
    return tl.load(cos_ptr + place, mask=mask, other=0.0), tl.load(sin_ptr + place, mask=mask, other=0.0)


@triton.jit
def _halves(ptr, row, inside, FIRST: tl.constexpr, HALF: tl.constexpr, WIDE: tl.constexpr):
    """Pointers to the low half of an axis in rows that begin at `row` [TOKENS], and which of them are there."""
    column = tl.arange(0, WIDE)
    return ptr + row[:, None] + FIRST + column[None, :], inside[:, None] & (column < HALF)[None, :]


@triton.jit
def _forward_axis(
    x_ptr,
    w_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    token,
    inside,
    STRIDE,
    eps,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    X_FIRST: tl.constexpr,
    OUT_FIRST: tl.constexpr,
    HALF: tl.constexpr,
    WIDE: tl.constexpr,
):
    column = tl.arange(0, WIDE)
    c, s = _rotation(cos_ptr, sin_ptr, token, inside, OUT_FIRST, HALF, WIDE, 2 * D)
    w_low = tl.load(w_ptr + column, mask=column < HALF, other=0.0).to(tl.float32)[None, :]
    w_high = tl.load(w_ptr + HALF + column, mask=column < HALF, other=0.0).to(tl.float32)[None, :]
    for head in range(HEADS):
        p_x, mask = _halves(x_ptr, token * STRIDE + head * D, inside, X_FIRST, HALF, WIDE)
        low = tl.load(p_x, mask=mask, other=0.0).to(tl.float32)
        high = tl.load(p_x + HALF, mask=mask, other=0.0).to(tl.float32)
        r = tl.rsqrt(tl.sum(low * low + high * high, 1) / (2 * HALF) + eps)[:, None]
        low, high = low * r * w_low, high * r * w_high
        p_out, mask = _halves(out_ptr, (token * HEADS + head) * 2 * D, inside, OUT_FIRST, HALF, WIDE)
        tl.store(p_out, (low * c - high * s).to(out_ptr.dtype.element_ty), mask=mask)
        tl.store(p_out + HALF, (high * c + low * s).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def forward_kernel(
    x_t_ptr,
    x_hw_ptr,
    w_t_ptr,
    w_h_ptr,
    w_w_ptr,
    cos_ptr,
    sin_ptr,
    out_ptr,
    T,
    STRIDE,
    eps,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    T_WIDE: tl.constexpr,
    HW_WIDE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """out [T, HEADS, 2 D] from x_t and x_hw [T, HEADS, D], whose tokens lie STRIDE apart.

    WIDE: powers of two that hold half an axis.
    """
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    inside = token < T
    _forward_axis(
        x_t_ptr, w_t_ptr, cos_ptr, sin_ptr, out_ptr, token, inside, STRIDE, eps, HEADS, D, 0, 0, D // 2, T_WIDE
    )
    _forward_axis(
        x_hw_ptr, w_h_ptr, cos_ptr, sin_ptr, out_ptr, token, inside, STRIDE, eps, HEADS, D, 0, D, D // 4, HW_WIDE
    )
    _forward_axis(
        x_hw_ptr,
        w_w_ptr,
        cos_ptr,
        sin_ptr,
        out_ptr,
        token,
        inside,
        STRIDE,
        eps,
        HEADS,
        D,
        D // 2,
        D + D // 2,
        D // 4,
        HW_WIDE,
    )


@triton.jit
def _backward_axis(
    dout_ptr,
    x_ptr,
    w_ptr,
    cos_ptr,
    sin_ptr,
    dx_ptr,
    dw_ptr,
    token,
    inside,
    STRIDE,
    eps,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    X_FIRST: tl.constexpr,
    OUT_FIRST: tl.constexpr,
    HALF: tl.constexpr,
    WIDE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    column = tl.arange(0, WIDE)
    c, s = _rotation(cos_ptr, sin_ptr, token, inside, OUT_FIRST, HALF, WIDE, 2 * D)
    w_low = tl.load(w_ptr + column, mask=column < HALF, other=0.0).to(tl.float32)[None, :]
    w_high = tl.load(w_ptr + HALF + column, mask=column < HALF, other=0.0).to(tl.float32)[None, :]
    dw_low, dw_high = tl.zeros([TOKENS, WIDE], tl.float32), tl.zeros([TOKENS, WIDE], tl.float32)
    for head in range(HEADS):
        p_dout, mask = _halves(dout_ptr, (token * HEADS + head) * 2 * D, inside, OUT_FIRST, HALF, WIDE)
        d_low = tl.load(p_dout, mask=mask, other=0.0).to(tl.float32)
        d_high = tl.load(p_dout + HALF, mask=mask, other=0.0).to(tl.float32)
        u_low, u_high = d_low * c + d_high * s, d_high * c - d_low * s
        p_x, mask = _halves(x_ptr, token * STRIDE + head * D, inside, X_FIRST, HALF, WIDE)
        low = tl.load(p_x, mask=mask, other=0.0).to(tl.float32)
        high = tl.load(p_x + HALF, mask=mask, other=0.0).to(tl.float32)
        r = tl.rsqrt(tl.sum(low * low + high * high, 1) / (2 * HALF) + eps)[:, None]
        low, high = low * r, high * r
        dw_low += u_low * low
        dw_high += u_high * high
        u_low, u_high = u_low * w_low, u_high * w_high
        mean = (tl.sum(u_low * low + u_high * high, 1) / (2 * HALF))[:, None]
        p_dx, mask = _halves(dx_ptr, (token * HEADS + head) * D, inside, X_FIRST, HALF, WIDE)
        tl.store(p_dx, ((u_low - low * mean) * r).to(dx_ptr.dtype.element_ty), mask=mask)
        tl.store(p_dx + HALF, ((u_high - high * mean) * r).to(dx_ptr.dtype.element_ty), mask=mask)
    p_dw = dw_ptr + tl.program_id(0).to(tl.int64) * 2 * D + OUT_FIRST + column
    tl.store(p_dw, tl.sum(dw_low, 0), mask=column < HALF)
    tl.store(p_dw + HALF, tl.sum(dw_high, 0), mask=column < HALF)


@triton.jit
def backward_kernel(
    dout_ptr,
    x_t_ptr,
    x_hw_ptr,
    w_t_ptr,
    w_h_ptr,
    w_w_ptr,
    cos_ptr,
    sin_ptr,
    dx_t_ptr,
    dx_hw_ptr,
    dw_ptr,
    T,
    STRIDE,
    eps,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    T_WIDE: tl.constexpr,
    HW_WIDE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """dx_t and dx_hw [T, HEADS, D]; dw [programs, 2 D] float32, one row per program."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    inside = token < T
    _backward_axis(
        dout_ptr,
        x_t_ptr,
        w_t_ptr,
        cos_ptr,
        sin_ptr,
        dx_t_ptr,
        dw_ptr,
        token,
        inside,
        STRIDE,
        eps,
        HEADS,
        D,
        0,
        0,
        D // 2,
        T_WIDE,
        TOKENS,
    )
    _backward_axis(
        dout_ptr,
        x_hw_ptr,
        w_h_ptr,
        cos_ptr,
        sin_ptr,
        dx_hw_ptr,
        dw_ptr,
        token,
        inside,
        STRIDE,
        eps,
        HEADS,
        D,
        0,
        D,
        D // 4,
        HW_WIDE,
        TOKENS,
    )
    _backward_axis(
        dout_ptr,
        x_hw_ptr,
        w_w_ptr,
        cos_ptr,
        sin_ptr,
        dx_hw_ptr,
        dw_ptr,
        token,
        inside,
        STRIDE,
        eps,
        HEADS,
        D,
        D // 2,
        D + D // 2,
        D // 4,
        HW_WIDE,
        TOKENS,
    )
