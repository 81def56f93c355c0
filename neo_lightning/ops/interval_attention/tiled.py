"""Interval attention in plain torch, tile of rows by tile of rows: the CPU's default.

A tile of rows [a, b) needs the keys [start_a, limit_{b-1}) and no others. All keys of a row are at hand, so softmax is
the ordinary one, and the backward pass makes it again: only q, k and v are kept. Tiles end with a document where one
ends near, so that rows of many short documents multiply few masked scores. The heads of a group are folded into
the rows of one matmul; keys and values are never expanded.

Trade-off: two more passes over the scores than a fused kernel. The bounds are read on the host once per batch, which
on CUDA is a synchronisation; the Triton backend is the one without.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ROWS = 128
"""Rows of a tile. On 512-token rows of short documents 128 beats 64, 192, 256 and dense attention (fwd + bwd)."""
KEPT_BIAS = 1 << 22
"""Mask elements of a batch up to which the tiles' masks are kept for all layers; above, each layer makes them again."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows [a, b) and the keys [lo, hi) that they see between them."""

    a: int
    b: int
    lo: int
    hi: int
    start: Tensor | None
    """[b - a, 1] first visible key of each row; None where every row sees all of [lo, hi)."""
    limit: Tensor | None
    kept: list[Tensor]
    """The bias, once made, if it is to be kept."""
    keep: bool

    def bias(self, group: int, dtype: torch.dtype) -> Tensor | None:
        """[group * (b - a), hi - lo]: 0 where the row sees the key and -inf elsewhere; None where it sees all."""
        if self.start is None or self.limit is None:
            return None
        if self.kept and self.kept[0].dtype == dtype and self.kept[0].shape[0] == group * (self.b - self.a):
            return self.kept[0]
        j = torch.arange(self.lo, self.hi, device=self.start.device)
        hidden = (j < self.start) | (j >= self.limit)
        bias = torch.zeros(hidden.shape, dtype=dtype, device=j.device).masked_fill_(hidden, float("-inf"))
        bias = bias.repeat(group, 1)
        if self.keep:
            self.kept[:] = [bias]
        return bias


def prepare(start: Tensor, limit: Tensor) -> list[Tile]:
    """Cut the row into tiles. Reads both arrays on the host."""
    first, last = start.tolist(), limit.tolist()
    n = len(first)
    spans, a = [], 0
    while a < n:
        b = min(a + ROWS, n)
        if b < n and first[b] == first[b - 1] and first[b] > a:
            b = first[b]  # stop before a document that would be cut, and start the next tile with it
        spans.append((a, b, first[a], last[b - 1]))
        a = b
    keep = sum((b - a) * (hi - lo) for a, b, lo, hi in spans) <= KEPT_BIAS
    tiles = []
    for a, b, lo, hi in spans:
        whole = first[a] == first[b - 1] and last[a] == last[b - 1]
        rows = (None, None) if whole else (start[a:b, None], limit[a:b, None])
        tiles.append(Tile(a, b, lo, hi, rows[0], rows[1], [], keep))
    return tiles


def _matmul_high(a: Tensor, b: Tensor, high: torch.dtype, scale: float, bias: Tensor | None) -> Tensor:
    """scale * a @ b^T + bias in `high`, without rounding the products to a half dtype on the way."""
    if a.dtype == high:
        if bias is not None:
            return torch.baddbmm(bias, a, b.transpose(1, 2), alpha=scale)
        return torch.bmm(a, b.transpose(1, 2)).mul_(scale)
    if a.is_cuda:
        s = torch.bmm(a, b.transpose(1, 2), out_dtype=high).mul_(scale)
    else:
        s = torch.bmm(a.to(high), b.to(high).transpose(1, 2)).mul_(scale)
    return s if bias is None else s.add_(bias)


def _accumulate(total: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    """total += scale * a^T @ b; `total` may be a view of a longer array, in a higher dtype."""
    if total.dtype == a.dtype:
        total.baddbmm_(a.transpose(1, 2), b, alpha=scale)
    else:
        total.add_(a.transpose(1, 2) @ b, alpha=scale)


class _TiledInterval(torch.autograd.Function):
    """Heads outermost inside: q and o as [K, G, T, .], k and v as [K, T, .]."""

    @staticmethod
    def forward(ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, tiles: list[Tile], scale: float) -> Tensor:
        t, h, d = q_THD.shape
        heads, e = v_TKE.shape[1:]
        group, high = h // heads, torch.promote_types(q_THD.dtype, torch.float32)
        q = q_THD.view(t, heads, group, d).permute(1, 2, 0, 3)
        k, v = k_TKD.transpose(0, 1).contiguous(), v_TKE.transpose(0, 1).contiguous()
        o = v.new_empty(heads, group, t, e)
        for tile in tiles:
            a, b, lo, hi = tile.a, tile.b, tile.lo, tile.hi
            rows = q[:, :, a:b].reshape(heads, group * (b - a), d)
            p = _matmul_high(rows, k[:, lo:hi], high, scale, tile.bias(group, high)).softmax(-1)
            o[:, :, a:b] = (p.to(v.dtype) @ v[:, lo:hi]).view(heads, group, b - a, e)
        ctx.save_for_backward(q_THD, k, v)
        ctx.tiles, ctx.scale = tiles, scale
        return o.permute(2, 0, 1, 3).reshape(t, h, e)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_THD, k, v = ctx.saved_tensors
        t, h, d = q_THD.shape
        heads, _, e = v.shape
        group, high = h // heads, torch.promote_types(q_THD.dtype, torch.float32)
        q = q_THD.view(t, heads, group, d).permute(1, 2, 0, 3)
        do = grads[0].reshape(t, heads, group, e).permute(1, 2, 0, 3)
        dq = q_THD.new_empty(heads, group, t, d)
        dk, dv = torch.zeros_like(k, dtype=high), torch.zeros_like(v, dtype=high)
        for tile in ctx.tiles:
            a, b, lo, hi = tile.a, tile.b, tile.lo, tile.hi
            n = group * (b - a)
            rows, do_rows = q[:, :, a:b].reshape(heads, n, d), do[:, :, a:b].reshape(heads, n, e)
            p = _matmul_high(rows, k[:, lo:hi], high, ctx.scale, tile.bias(group, high)).softmax(-1)
            _accumulate(dv[:, lo:hi], p.to(v.dtype), do_rows)
            dp = _matmul_high(do_rows, v[:, lo:hi], high, 1.0, None)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, high).to(k.dtype)
            dq[:, :, a:b] = (ds @ k[:, lo:hi]).mul_(ctx.scale).view(heads, group, b - a, d)
            _accumulate(dk[:, lo:hi], ds, rows, ctx.scale)
        dq_THD = dq.permute(2, 0, 1, 3).reshape(t, h, d)
        return dq_THD, dk.transpose(0, 1).to(k.dtype), dv.transpose(0, 1).to(v.dtype), None, None


@torch.compiler.disable
def attend(q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, tiles: list[Tile], scale: float) -> Tensor:
    """See `interval_attention`. A compiled layer steps out of its graph here: the tiles differ from batch to batch."""
    with torch.autocast(q_THD.device.type, enabled=False):
        return _TiledInterval.apply(q_THD.contiguous(), k_TKD, v_TKE, tiles, scale)
