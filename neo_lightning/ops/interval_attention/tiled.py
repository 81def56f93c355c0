"""Interval attention in plain torch, tile of rows by tile of rows: the CPU's default.

A tile of rows [a, b) needs the keys [start_a, limit_{b-1}) and no others. All keys of a row are at hand, so softmax is
the ordinary one. Tiles end with a document where one ends near, so that rows of many short documents multiply few
masked scores. The heads of a group are folded into the rows of one matmul; keys and values are never expanded. What
the caller gave is kept as it is, and each tile is rearranged where it is used, while it is in the cache.

Trade-off: two more passes over the scores than a fused kernel. Where the probabilities are at most twice as large as
queries, keys and values (short documents) they are kept for the backward pass, elsewhere it makes them again. The
bounds are read on the host once per batch, which on CUDA is a synchronisation; the Triton backend is the one without.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neo_lightning.ops.precision import full_float32

ROWS = 128
"""Rows of a tile on a CPU. On 512-token rows of short documents 128 beats 64, 192, 256 and dense attention."""
ROWS_ON_DEVICE = 512
"""Rows of a tile elsewhere, where a few large products cost less than many small ones."""
KEPT_BIAS = 1 << 22
"""Mask elements of a batch up to which the tiles' masks are kept for all layers; above, each layer makes them again."""

KEPT_SCORES = 2
"""Times the size of queries, keys and values up to which a layer keeps its probabilities for the backward pass."""


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
        """[(b - a) * group, hi - lo]: 0 where the row sees the key and -inf elsewhere; None where it sees all."""
        if self.start is None or self.limit is None:
            return None
        if self.kept and self.kept[0].dtype == dtype and self.kept[0].shape[0] == group * (self.b - self.a):
            return self.kept[0]
        j = torch.arange(self.lo, self.hi, device=self.start.device)
        hidden = (j < self.start) | (j >= self.limit)
        bias = torch.zeros(hidden.shape, dtype=dtype, device=j.device).masked_fill_(hidden, float("-inf"))
        bias = bias.repeat_interleave(group, 0)
        if self.keep:
            self.kept[:] = [bias]
        return bias


def prepare(start: Tensor, limit: Tensor) -> list[Tile]:
    """Cut the row into tiles. Reads both arrays on the host."""
    first, last = start.tolist(), limit.tolist()
    n, rows = len(first), ROWS if start.device.type == "cpu" else ROWS_ON_DEVICE
    spans, a = [], 0
    while a < n:
        b = min(a + rows, n)
        if b < n and first[b] == first[b - 1]:  # a document would be cut
            if first[b] > a:
                b = first[b]  # the next tile begins with it
            elif (rest := bisect_right(first, first[a], b)) <= a + rows * 3 // 2:
                b = rest  # or this one is a little longer
        spans.append((a, b, first[a], last[b - 1]))
        a = b
    keep = sum((b - a) * (hi - lo) for a, b, lo, hi in spans) <= KEPT_BIAS
    tiles = []
    for a, b, lo, hi in spans:
        whole = first[a] == first[b - 1] and last[a] == last[b - 1]
        bounds = (None, None) if whole else (start[a:b, None], limit[a:b, None])
        tiles.append(Tile(a, b, lo, hi, bounds[0], bounds[1], [], keep))
    return tiles


def _matmul_high(a: Tensor, b: Tensor, high: torch.dtype, scale: float, bias: Tensor | None) -> Tensor:
    """scale * a @ b^T + bias in `high`, without rounding the products to a half dtype on the way."""
    if a.dtype == high:
        if bias is not None:
            return torch.baddbmm(bias, a, b.transpose(1, 2), alpha=scale)
        s = torch.bmm(a, b.transpose(1, 2))
        return s if scale == 1.0 else s.mul_(scale)
    if a.is_cuda:
        s = torch.bmm(a, b.transpose(1, 2), out_dtype=high).mul_(scale)
    else:
        s = torch.bmm(a.to(high), b.to(high).transpose(1, 2)).mul_(scale)
    return s if bias is None else s.add_(bias)


class _TiledInterval(torch.autograd.Function):
    """Inside a tile the heads are outermost and a token's group of query heads are neighbouring rows:
    q and o are [K, rows * G, .], k and v [K, keys, .]."""

    @staticmethod
    @full_float32()
    def forward(ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, tiles: list[Tile], scale: float) -> Tensor:
        o_THE = v_TKE.new_empty(*q_THD.shape[:2], v_TKE.shape[-1])
        q, o = (_grouped(x, k_TKD.shape[1]) for x in (q_THD, o_THE))
        k, v = k_TKD.transpose(0, 1), v_TKE.transpose(0, 1)
        scores = sum((tile.b - tile.a) * (tile.hi - tile.lo) for tile in tiles) * q_THD.shape[1]
        keep = scores <= KEPT_SCORES * (q.numel() + k.numel() + v.numel()) and v.dtype in (torch.float32, torch.float64)
        kept = []
        for tile in tiles:
            keys = slice(tile.lo, tile.hi)
            p = _probabilities(q[:, tile.a : tile.b].flatten(1, 2), k[:, keys], tile, scale)
            part = o[:, tile.a : tile.b]
            part.copy_(torch.bmm(p.to(v.dtype), v[:, keys]).view(part.shape))
            if keep:
                kept.append(p)
        ctx.save_for_backward(q_THD, k_TKD, v_TKE, *kept)
        ctx.tiles, ctx.scale = tiles, scale
        return o_THE

    @staticmethod
    @full_float32()
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q_THD, k_TKD, v_TKE, *kept = ctx.saved_tensors
        high = torch.promote_types(q_THD.dtype, torch.float32)
        dq_THD = q_THD.new_empty(q_THD.shape)
        dk_TKD, dv_TKE = k_TKD.new_zeros(k_TKD.shape, dtype=high), v_TKE.new_zeros(v_TKE.shape, dtype=high)
        q, do, dq = (_grouped(x, k_TKD.shape[1]) for x in (q_THD, grads[0], dq_THD))
        k, v, dk, dv = (x.transpose(0, 1) for x in (k_TKD, v_TKE, dk_TKD, dv_TKE))
        for i, tile in enumerate(ctx.tiles):
            rows, keys = slice(tile.a, tile.b), slice(tile.lo, tile.hi)
            q_tile, do_tile = q[:, rows].flatten(1, 2), do[:, rows].flatten(1, 2)
            p = kept[i] if kept else _probabilities(q_tile, k[:, keys], tile, ctx.scale)
            dv[:, keys].add_(torch.bmm(p.to(v.dtype).transpose(1, 2), do_tile))
            dp = _matmul_high(do_tile, v[:, keys], high, 1.0, None)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, high).to(k.dtype)
            part = dq[:, rows]
            torch.mul(torch.bmm(ds, k[:, keys]).view(part.shape), ctx.scale, out=part)
            dk[:, keys].add_(torch.bmm(ds.transpose(1, 2), q_tile), alpha=ctx.scale)
        return dq_THD, dk_TKD.to(k.dtype), dv_TKE.to(v.dtype), None, None


def _probabilities(q: Tensor, k: Tensor, tile: Tile, scale: float) -> Tensor:
    """softmax(scale * q k^T + bias) of one tile, float32 at least: q [K, rows * G, D], k [K, keys, D]."""
    high = torch.promote_types(q.dtype, torch.float32)
    return _matmul_high(q, k, high, scale, tile.bias(q.shape[1] // (tile.b - tile.a), high)).softmax(-1)


def _grouped(x_THD: Tensor, heads: int) -> Tensor:
    """[T, heads * G, D] -> the same memory as [heads, T, G, D]."""
    return x_THD.unflatten(1, (heads, -1)).transpose(0, 1)


@torch.compiler.disable
def attend(q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, tiles: list[Tile], scale: float) -> Tensor:
    """See `interval_attention`. A compiled layer steps out of its graph here: the tiles differ from batch to batch."""
    with torch.autocast(q_THD.device.type, enabled=False):
        return _TiledInterval.apply(q_THD, k_TKD, v_TKE, tiles, scale)
