"""Triton kernels of interval attention: one forward, two backward, nothing of size T x T.

A program of the forward pass owns a block of rows of one query head and walks over the keys between its first row's
`start` and its last row's `limit`. Both bounds never decrease, so the keys that every row of the block sees are one
range in the middle, which needs no mask:

    keys    start_first      start_last       limit_first      limit_last
                 |--- masked ---|----- whole -----|--- masked ---|

Seen from a key, the rows that see it are an interval as well, [seen_from_j, seen_to_j), and monotone too: the gradients
of keys and values are made by the same walk over rows. One pass per output costs 7 matmuls where atomics would need 5,
and gives the same bits every time.

Keys, values, queries and output gradients come through tensor descriptors (bulk copies on Hopper; older GPUs
get plain loads from the same source) as [T, heads * width]; rows behind the end read as zero. Scores are kept in units
of log2, so that one exp2 does.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _ranges(first_lo, last_lo, first_hi, last_hi, BLOCK: tl.constexpr):
    """Where the walk begins, where the unmasked part begins and ends, and where the walk ends; steps of BLOCK."""
    lo = first_lo // BLOCK * BLOCK
    whole_lo = tl.minimum(tl.maximum(tl.cdiv(last_lo, BLOCK) * BLOCK, lo), last_hi)
    whole_hi = tl.maximum(first_hi // BLOCK * BLOCK, whole_lo)
    return lo, whole_lo, whole_hi, last_hi


@triton.jit
def _attend(
    acc,
    total,
    m,
    b_q,
    k_desc,
    v_desc,
    kv,
    lo,
    hi,
    b_start,
    b_limit,
    qk_scale,
    MASK: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Online softmax over the keys [lo, hi): accumulator [ROWS, E], sum and maximum [ROWS]."""
    for j0 in range(lo, hi, KEYS):
        b_k = k_desc.load([j0, kv * D])  # [KEYS, D]
        b_s = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
        if MASK:
            j = j0 + tl.arange(0, KEYS)
            b_s = tl.where((j[None, :] >= b_start[:, None]) & (j[None, :] < b_limit[:, None]), b_s, float("-inf"))
        new = tl.maximum(m, tl.max(b_s, 1) * qk_scale)
        b_p = tl.exp2(b_s * qk_scale - new[:, None])
        shrink = tl.exp2(m - new)
        total = total * shrink + tl.sum(b_p, 1)
        b_v = v_desc.load([j0, kv * E])  # [KEYS, E]
        acc = tl.dot(b_p.to(b_v.dtype), b_v, acc * shrink[:, None], input_precision=PRECISION)
        m = new
    return acc, total, m


@triton.jit
def forward_kernel(
    q_desc,
    k_desc,
    v_desc,
    o_ptr,
    lse_ptr,
    start_ptr,
    limit_ptr,
    T,
    H,
    scale,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """o [T, H, E] and lse [H, T] (log2); grid (blocks of rows, H), the last rows first: they may have most keys."""
    i0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    h = tl.program_id(1)
    i = i0 + tl.arange(0, ROWS)
    last, inside = tl.minimum(i0 + ROWS, T) - 1, i < T
    b_start = tl.load(start_ptr + tl.minimum(i, last))
    b_limit = tl.load(limit_ptr + tl.minimum(i, last))
    edges = _ranges(
        tl.load(start_ptr + i0), tl.load(start_ptr + last), tl.load(limit_ptr + i0), tl.load(limit_ptr + last), KEYS
    )
    b_q = q_desc.load([i0, h * D])  # [ROWS, D]
    acc, total = tl.zeros([ROWS, E], tl.float32), tl.zeros([ROWS], tl.float32)
    m = tl.full([ROWS], -1e30, tl.float32)  # finite: a row may see nothing in its first block of keys
    qk_scale, kv = scale * LOG2E, h // GROUP
    for part in tl.static_range(3):
        acc, total, m = _attend(
            acc,
            total,
            m,
            b_q,
            k_desc,
            v_desc,
            kv,
            edges[part],
            edges[part + 1],
            b_start,
            b_limit,
            qk_scale,
            part != 1,
            KEYS,
            D,
            E,
            PRECISION,
        )
    p_o = o_ptr + (i.to(tl.int64) * H + h)[:, None] * E + tl.arange(0, E)[None, :]
    tl.store(p_o, (acc / total[:, None]).to(o_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(lse_ptr + h * T + i, m + tl.log2(total), mask=inside)


@triton.jit
def delta_kernel(o_ptr, do_ptr, delta_ptr, T, H, E: tl.constexpr, ROWS: tl.constexpr):
    """delta [H, T] = sum over the width of o * do."""
    i, h = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1)
    place = (i.to(tl.int64) * H + h)[:, None] * E + tl.arange(0, E)[None, :]
    inside = i < T
    b_o = tl.load(o_ptr + place, mask=inside[:, None], other=0.0).to(tl.float32)
    b_do = tl.load(do_ptr + place, mask=inside[:, None], other=0.0).to(tl.float32)
    tl.store(delta_ptr + h * T + i, tl.sum(b_o * b_do, 1), mask=inside)


@triton.jit
def key_value_kernel(
    q_desc,
    k_desc,
    v_desc,
    do_desc,
    lse_ptr,
    delta_ptr,
    from_ptr,
    to_ptr,
    dk_ptr,
    dv_ptr,
    T,
    scale,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dk [T, K, D] and dv [T, K, E]; grid (blocks of keys, K). One masked loop: three would spill registers."""
    j0, kv = tl.program_id(0) * KEYS, tl.program_id(1)
    j = j0 + tl.arange(0, KEYS)
    last, inside = tl.minimum(j0 + KEYS, T) - 1, j < T
    b_from = tl.load(from_ptr + tl.minimum(j, last))
    b_to = tl.load(to_ptr + tl.minimum(j, last))
    lo, hi = tl.load(from_ptr + j0) // ROWS * ROWS, tl.load(to_ptr + last)
    b_k, b_v = k_desc.load([j0, kv * D]), v_desc.load([j0, kv * E])
    dk, dv = tl.zeros([KEYS, D], tl.float32), tl.zeros([KEYS, E], tl.float32)
    qk_scale = scale * LOG2E
    for g in range(GROUP):
        h = kv * GROUP + g
        for i0 in range(lo, hi, ROWS):
            i = i0 + tl.arange(0, ROWS)
            b_q = q_desc.load([i0, h * D])  # [ROWS, D]
            b_lse = tl.load(lse_ptr + h * T + i, mask=i < T, other=0.0)
            b_p = tl.exp2(tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION) * qk_scale - b_lse[None, :])
            b_p = tl.where((i[None, :] >= b_from[:, None]) & (i[None, :] < b_to[:, None]), b_p, 0.0)  # [KEYS, ROWS]
            b_do = do_desc.load([i0, h * E])  # [ROWS, E]
            dv = tl.dot(b_p.to(b_do.dtype), b_do, dv, input_precision=PRECISION)
            b_dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION)
            b_ds = b_p * (b_dp - tl.load(delta_ptr + h * T + i, mask=i < T, other=0.0)[None, :])
            dk = tl.dot(b_ds.to(b_q.dtype), b_q, dk, input_precision=PRECISION)
    row = j.to(tl.int64) * tl.num_programs(1) + kv
    p_dk = dk_ptr + row[:, None] * D + tl.arange(0, D)[None, :]
    p_dv = dv_ptr + row[:, None] * E + tl.arange(0, E)[None, :]
    tl.store(p_dk, (dk * scale).to(dk_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(p_dv, dv.to(dv_ptr.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _query_gradient(
    dq,
    b_q,
    b_do,
    b_lse,
    b_delta,
    k_desc,
    v_desc,
    kv,
    lo,
    hi,
    b_start,
    b_limit,
    qk_scale,
    MASK: tl.constexpr,
    KEYS: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq [ROWS, D] / scale from the keys [lo, hi)."""
    for j0 in range(lo, hi, KEYS):
        b_k = k_desc.load([j0, kv * D])  # [KEYS, D]
        b_p = tl.exp2(tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION) * qk_scale - b_lse[:, None])
        if MASK:
            j = j0 + tl.arange(0, KEYS)
            b_p = tl.where((j[None, :] >= b_start[:, None]) & (j[None, :] < b_limit[:, None]), b_p, 0.0)
        b_v = v_desc.load([j0, kv * E])  # [KEYS, E]
        b_ds = b_p * (tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION) - b_delta[:, None])
        dq = tl.dot(b_ds.to(b_k.dtype), b_k, dq, input_precision=PRECISION)
    return dq


@triton.jit
def query_kernel(
    q_desc,
    k_desc,
    v_desc,
    do_desc,
    lse_ptr,
    delta_ptr,
    start_ptr,
    limit_ptr,
    dq_ptr,
    T,
    H,
    scale,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    E: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """dq [T, H, D]; grid (blocks of rows, H), the last rows first."""
    i0 = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    h = tl.program_id(1)
    i = i0 + tl.arange(0, ROWS)
    last, inside = tl.minimum(i0 + ROWS, T) - 1, i < T
    b_start = tl.load(start_ptr + tl.minimum(i, last))
    b_limit = tl.load(limit_ptr + tl.minimum(i, last))
    edges = _ranges(
        tl.load(start_ptr + i0), tl.load(start_ptr + last), tl.load(limit_ptr + i0), tl.load(limit_ptr + last), KEYS
    )
    b_q, b_do = q_desc.load([i0, h * D]), do_desc.load([i0, h * E])
    b_lse = tl.load(lse_ptr + h * T + tl.minimum(i, last))
    b_delta = tl.load(delta_ptr + h * T + tl.minimum(i, last))
    dq = tl.zeros([ROWS, D], tl.float32)
    qk_scale, kv = scale * LOG2E, h // GROUP
    for part in tl.static_range(3):
        dq = _query_gradient(
            dq,
            b_q,
            b_do,
            b_lse,
            b_delta,
            k_desc,
            v_desc,
            kv,
            edges[part],
            edges[part + 1],
            b_start,
            b_limit,
            qk_scale,
            part != 1,
            KEYS,
            D,
            E,
            PRECISION,
        )
    p_dq = dq_ptr + (i.to(tl.int64) * H + h)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(p_dq, (dq * scale).to(dq_ptr.dtype.element_ty), mask=inside[:, None])
