"""Attention to cached keys and values: a pool in which every sequence has a range of places.

    places    0      a            b         c       d
    keys      [......| sequence 0 |.........| seq. 1 |...]   [K, P, D]
    values    likewise, transposed                           [K, E, P]

Values lie transposed because a CPU multiplies a matrix with few vectors fast only where each row of it is read from end
to end: keys for the scores, and values for their sum, which is then 3 to 7 times as fast in bfloat16. Nothing is
expanded or copied, and each key and value is read once. benchmarks/decode.py measures it against SDPA.

A decoding step has one query of each sequence. Few keys are gathered for one product over all sequences, masked, which
costs less than many small products (`JOINT`); otherwise each sequence has its own, which needs no mask and no copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

JOINT = 1 << 20
"""Keys of all sequences times what a query has to multiply with each (all heads' widths) up to which they share one
product: about what a small product costs beside its multiplications on a CPU."""
FEW = 64
"""Queries up to which keys stand on the left of their product."""
ROWS = 256
"""Query rows that meet their keys at once while a prompt is read."""


@dataclass(frozen=True, kw_only=True)
class Spans:
    """The ranges of a decoding step, once for all layers."""

    ranges: tuple[tuple[int, int], ...]
    """First place of each of B sequences, and one past its newest."""
    places: Tensor | None
    """[S] the places of all; None where each sequence has its own product."""
    bias: Tensor | None
    """[B, 1, S] float32: 0 where the place is the sequence's, -inf elsewhere."""


def prepare_spans(ranges: Sequence[tuple[int, int]], width: int, device: torch.device) -> Spans:
    """Which way the step goes, and its mask. Every range holds at least one place; width: H * (D + E)."""
    count, total = len(ranges), sum(b - a for a, b in ranges)
    if count == 1 or total * width > JOINT:
        return Spans(ranges=tuple(ranges), places=None, bias=None)
    places = torch.cat([torch.arange(a, b) for a, b in ranges])
    bias = torch.full((count, 1, total), float("-inf"))
    at = 0
    for row, (a, b) in zip(bias, ranges, strict=True):
        row[:, at : at + b - a] = 0.0
        at += b - a
    return Spans(ranges=tuple(ranges), places=places.to(device), bias=bias.to(device))


def cached_attention(q_BHD: Tensor, k_KPD: Tensor, v_KEP: Tensor, spans: Spans, *, scale: float) -> Tensor:
    """softmax(scale * q k^T over each sequence's range) v.

    Args:
        q_BHD: [B, H, D], one query of each sequence. K divides H.
        k_KPD, v_KEP: the pool's keys [K, P, D] and values [K, E, P].
        spans: from `prepare_spans`.
        scale: of the scores.

    Returns:
        o_BHE: [B, H, E] in the values' dtype; the softmax is float32 (float64 for float64 inputs).
    """
    b, h, d = q_BHD.shape
    heads = k_KPD.shape[0]
    q_BKGD = q_BHD.view(b, heads, -1, d)
    if spans.places is not None:
        keys, values = k_KPD.index_select(1, spans.places), v_KEP.index_select(2, spans.places)
        o_KER = _attend(q_BKGD.transpose(0, 1).reshape(heads, -1, d), keys, values, spans.bias, scale)
        return o_KER.view(heads, -1, b, h // heads).permute(2, 0, 3, 1).reshape(b, h, -1)
    parts = [
        _attend(q_KGD, k_KPD[:, lo:hi], v_KEP[:, :, lo:hi], None, scale)
        for q_KGD, (lo, hi) in zip(q_BKGD, spans.ranges, strict=True)
    ]
    o_BKEG = torch.stack(parts) if b > 1 else parts[0][None]
    return o_BKEG.transpose(2, 3).reshape(b, h, -1)


def continued_attention(
    q_THD: Tensor, k_KSD: Tensor, v_KES: Tensor, limit: Sequence[int], limit_T: Tensor, *, scale: float
) -> Tensor:
    """Attention of one sequence's newest tokens to all of its tokens so far.

    Args:
        q_THD: [T, H, D] queries of the newest T tokens.
        k_KSD, v_KES: keys and values of all S tokens, views of the pool.
        limit, limit_T: [T] one past the last of the S keys that each query sees; never decreasing. On the host, and on
            the queries' device.
        scale: of the scores.

    Returns:
        o_THE: [T, H, E].
    """
    heads = k_KSD.shape[0]
    parts = []
    for a in range(0, len(limit), ROWS):
        b = min(a + ROWS, len(limit))
        q_KTGD = q_THD[a:b].unflatten(1, (heads, -1)).transpose(0, 1)
        hidden = torch.arange(limit[b - 1], device=limit_T.device) >= limit_T[a:b, None]
        bias = torch.zeros(hidden.shape, device=limit_T.device).masked_fill_(hidden, float("-inf"))[:, None]
        keys, values = k_KSD[:, : limit[b - 1]], v_KES[:, :, : limit[b - 1]]
        o_KER = _attend(q_KTGD.flatten(1, 2), keys, values, bias, scale)
        parts.append(o_KER.unflatten(2, (b - a, -1)).permute(2, 0, 3, 1).reshape(b - a, q_THD.shape[1], -1))
    return torch.cat(parts)


def _attend(q_KRD: Tensor, k_KSD: Tensor, v_KES: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """[K, E, R] of R queries a head, a group's lying together; bias [R / G, 1, S]."""
    if q_KRD.element_size() == 2:
        s_KRS = _scores(q_KRD, k_KSD).float() * scale
    else:
        s_KRS = _scores(q_KRD * scale, k_KSD)
    if bias is not None:
        k, r, s = s_KRS.shape
        s_KRS = (s_KRS.reshape(k, bias.shape[0], -1, s) + bias).view(k, r, s)
    p_KRS = s_KRS.softmax(-1)
    if p_KRS.dtype != v_KES.dtype:
        p_KRS = p_KRS.to(v_KES.dtype)
    return torch.bmm(v_KES, p_KRS.transpose(1, 2))


def _scores(q_KRD: Tensor, k_KSD: Tensor) -> Tensor:
    if q_KRD.shape[1] > FEW:
        return torch.bmm(q_KRD, k_KSD.transpose(1, 2))
    return torch.bmm(k_KSD, q_KRD.transpose(1, 2)).transpose(1, 2)
