"""Triton kernels of per-axis QK norm and rotation: each projection is read once, each result written once.

A program takes a few tokens with all their heads, one axis after the other; the rotations of its tokens and the norms'
weights stay in registers. An axis is n pairs of neighbouring columns, a first and a second of each. With z for the
normalised axis, c and s for cosine and sine:

    out_first = z_first w_first c - z_second w_second s        out_second = z_second w_second c + z_first w_first s

The weights lie as released, all first halves before all second ones, and so do their gradients. The backward pass turns
the gradient back, adds up the weights' gradients over its tokens and heads in registers, and stores one row of them per
program, to be summed by the caller: the same bits every time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _load_pairs(ptr, row, inside, FIRST: tl.constexpr, PAIRS: tl.constexpr, WIDE: tl.constexpr):
    """The columns FIRST .. FIRST + 2 PAIRS of rows that begin at `row` [TOKENS], as two [TOKENS, WIDE] float32."""
    column = tl.arange(0, 2 * WIDE)
    mask = inside[:, None] & (column < 2 * PAIRS)[None, :]
    x = tl.load(ptr + row[:, None] + FIRST + column[None, :], mask=mask, other=0.0).to(tl.float32)
    return tl.split(tl.reshape(x, [row.shape[0], WIDE, 2]))


@triton.jit
def _store_pairs(ptr, row, inside, first, second, FIRST: tl.constexpr, PAIRS: tl.constexpr, WIDE: tl.constexpr):
    """Back to such columns."""
    column = tl.arange(0, 2 * WIDE)
    mask = inside[:, None] & (column < 2 * PAIRS)[None, :]
    x = tl.reshape(tl.join(first, second), [row.shape[0], 2 * WIDE])
    tl.store(ptr + row[:, None] + FIRST + column[None, :], x.to(ptr.dtype.element_ty), mask=mask)


@triton.jit
def _weights(w_ptr, PAIRS: tl.constexpr, WIDE: tl.constexpr):
    """Those of the pairs' first and second columns, [1, WIDE] float32 each."""
    column = tl.arange(0, WIDE)
    first = tl.load(w_ptr + column, mask=column < PAIRS, other=0.0).to(tl.float32)
    second = tl.load(w_ptr + PAIRS + column, mask=column < PAIRS, other=0.0).to(tl.float32)
    return first[None, :], second[None, :]


@triton.jit
def _forward_axis(
    x_ptr,
    w_ptr,
    turn_ptr,
    out_ptr,
    token,
    inside,
    STRIDE,
    eps,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDE: tl.constexpr,
):
    c, s = _load_pairs(turn_ptr, token * 2 * D, inside, FIRST, PAIRS, WIDE)
    w_first, w_second = _weights(w_ptr, PAIRS, WIDE)
    for head in range(HEADS):
        first, second = _load_pairs(x_ptr, token * STRIDE + head * 2 * D, inside, FIRST, PAIRS, WIDE)
        r = tl.rsqrt(tl.sum(first * first + second * second, 1) / (2 * PAIRS) + eps)[:, None]
        first, second = first * r * w_first, second * r * w_second
        row = (token * HEADS + head) * 2 * D
        _store_pairs(out_ptr, row, inside, first * c - second * s, second * c + first * s, FIRST, PAIRS, WIDE)


@triton.jit
def forward_kernel(
    x_ptr,
    w_t_ptr,
    w_h_ptr,
    w_w_ptr,
    turn_ptr,
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
    """out [T, HEADS, 2 D] from x [T, HEADS, 2 D], whose tokens lie STRIDE apart, and turn [T, D, 2].

    WIDE: powers of two that hold an axis' pairs.
    """
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    inside = token < T
    _forward_axis(x_ptr, w_t_ptr, turn_ptr, out_ptr, token, inside, STRIDE, eps, HEADS, D, 0, D // 2, T_WIDE)
    _forward_axis(x_ptr, w_h_ptr, turn_ptr, out_ptr, token, inside, STRIDE, eps, HEADS, D, D, D // 4, HW_WIDE)
    _forward_axis(x_ptr, w_w_ptr, turn_ptr, out_ptr, token, inside, STRIDE, eps, HEADS, D, D + D // 2, D // 4, HW_WIDE)


@triton.jit
def _backward_axis(
    dout_ptr,
    x_ptr,
    w_ptr,
    turn_ptr,
    dx_ptr,
    dw_ptr,
    token,
    inside,
    STRIDE,
    eps,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    FIRST: tl.constexpr,
    PAIRS: tl.constexpr,
    WIDE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    c, s = _load_pairs(turn_ptr, token * 2 * D, inside, FIRST, PAIRS, WIDE)
    w_first, w_second = _weights(w_ptr, PAIRS, WIDE)
    dw_first, dw_second = tl.zeros([TOKENS, WIDE], tl.float32), tl.zeros([TOKENS, WIDE], tl.float32)
    for head in range(HEADS):
        row = (token * HEADS + head) * 2 * D
        d_first, d_second = _load_pairs(dout_ptr, row, inside, FIRST, PAIRS, WIDE)
        u_first, u_second = d_first * c + d_second * s, d_second * c - d_first * s
        first, second = _load_pairs(x_ptr, token * STRIDE + head * 2 * D, inside, FIRST, PAIRS, WIDE)
        r = tl.rsqrt(tl.sum(first * first + second * second, 1) / (2 * PAIRS) + eps)[:, None]
        first, second = first * r, second * r
        dw_first += u_first * first
        dw_second += u_second * second
        u_first, u_second = u_first * w_first, u_second * w_second
        mean = (tl.sum(u_first * first + u_second * second, 1) / (2 * PAIRS))[:, None]
        u_first, u_second = (u_first - first * mean) * r, (u_second - second * mean) * r
        _store_pairs(dx_ptr, row, inside, u_first, u_second, FIRST, PAIRS, WIDE)
    column = tl.arange(0, WIDE)
    p_dw = dw_ptr + tl.program_id(0).to(tl.int64) * 2 * D + FIRST + column
    tl.store(p_dw, tl.sum(dw_first, 0), mask=column < PAIRS)
    tl.store(p_dw + PAIRS, tl.sum(dw_second, 0), mask=column < PAIRS)


@triton.jit
def backward_kernel(
    dout_ptr,
    x_ptr,
    w_t_ptr,
    w_h_ptr,
    w_w_ptr,
    turn_ptr,
    dx_ptr,
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
    """dx [T, HEADS, 2 D]; dw [programs, 2 D] float32, one row per program."""
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    inside = token < T
    _backward_axis(
        dout_ptr,
        x_ptr,
        w_t_ptr,
        turn_ptr,
        dx_ptr,
        dw_ptr,
        token,
        inside,
        STRIDE,
        eps,
        HEADS,
        D,
        0,
        D // 2,
        T_WIDE,
        TOKENS,
    )
    _backward_axis(
        dout_ptr,
        x_ptr,
        w_h_ptr,
        turn_ptr,
        dx_ptr,
        dw_ptr,
        token,
        inside,
        STRIDE,
        eps,
        HEADS,
        D,
        D,
        D // 4,
        HW_WIDE,
        TOKENS,
    )
    _backward_axis(
        dout_ptr,
        x_ptr,
        w_w_ptr,
        turn_ptr,
        dx_ptr,
        dw_ptr,
        token,
        inside,
        STRIDE,
        eps,
        HEADS,
        D,
        D + D // 2,
        D // 4,
        HW_WIDE,
        TOKENS,
    )
