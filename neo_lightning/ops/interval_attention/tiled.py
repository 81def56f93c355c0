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
"""Rows of a tile on a CPU. On 512-token rows of short documents 128 beats 64, 192, 256 and dense attention."""
ROWS_ON_DEVICE = 512
"""Rows of a tile elsewhere, where a few large products cost less than many small ones."""
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
        if b < n and first[b] == first[b - 1] and first[b] > a:
            b = first[b]  # stop before a document that would be cut, and start the next tile with it
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


def _accumulate(total: Tensor, a: Tensor, b: Tensor, scale: float = 1.0) -> None:
    """total += scale * a^T @ b; `total` may be a view of a longer array, in a higher dtype."""
    if total.dtype == a.dtype:
        total.baddbmm_(a.transpose(1, 2), b, alpha=scale)
    else:
        total.add_(a.transpose(1, 2) @ b, alpha=scale)


class _TiledInterval(torch.autograd.Function):
    """Inside, the heads are outermost and a token's group of query heads are neighbouring rows: q and o are
    [K, T * G, .], k and v [K, T, .]. A tile of any of them is then a view."""

    @staticmethod
    def forward(ctx: Any, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, tiles: list[Tile], scale: float) -> Tensor:
        t, heads, e = v_TKE.shape
        group, high = q_THD.shape[1] // heads, torch.promote_types(q_THD.dtype, torch.float32)
        q = _heads_first(q_THD, heads)
        k, v = k_TKD.transpose(0, 1).contiguous(), v_TKE.transpose(0, 1).contiguous()
        o = v.new_empty(heads, t * group, e)
        for tile in tiles:
            rows, keys = slice(tile.a * group, tile.b * group), slice(tile.lo, tile.hi)
            p = _matmul_high(q[:, rows], k[:, keys], high, scale, tile.bias(group, high)).softmax(-1)
            torch.bmm(p.to(v.dtype), v[:, keys], out=o[:, rows])
        ctx.save_for_backward(q, k, v)
        ctx.tiles, ctx.scale = tiles, scale
        return _tokens_first(o, t)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v = ctx.saved_tensors
        heads, t, _ = k.shape
        group, high = q.shape[1] // t, torch.promote_types(q.dtype, torch.float32)
        do = _heads_first(grads[0], heads)
        dq = torch.empty_like(q)
        dk, dv = torch.zeros_like(k, dtype=high), torch.zeros_like(v, dtype=high)
        for tile in ctx.tiles:
            rows, keys = slice(tile.a * group, tile.b * group), slice(tile.lo, tile.hi)
            p = _matmul_high(q[:, rows], k[:, keys], high, ctx.scale, tile.bias(group, high)).softmax(-1)
            _accumulate(dv[:, keys], p.to(v.dtype), do[:, rows])
            dp = _matmul_high(do[:, rows], v[:, keys], high, 1.0, None)
            ds = torch.ops.aten._softmax_backward_data(dp, p, -1, high).to(k.dtype)
            dq[:, rows].baddbmm_(ds, k[:, keys], beta=0, alpha=ctx.scale)
            _accumulate(dk[:, keys], ds, q[:, rows], ctx.scale)
        return _tokens_first(dq, t), dk.transpose(0, 1).to(k.dtype), dv.transpose(0, 1).to(v.dtype), None, None


def _heads_first(x_THD: Tensor, heads: int) -> Tensor:
    """[T, heads * G, D] -> [heads, T * G, D]."""
    t, h, d = x_THD.shape
    return x_THD.reshape(t, heads, h // heads, d).transpose(0, 1).reshape(heads, -1, d)


def _tokens_first(x: Tensor, t: int) -> Tensor:
    """[heads, T * G, D] -> [T, heads * G, D]."""
    heads, rows, d = x.shape
    return x.view(heads, t, rows // t, d).transpose(0, 1).reshape(t, -1, d)


@torch.compiler.disable
def attend(q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, tiles: list[Tile], scale: float) -> Tensor:
    """See `interval_attention`. A compiled layer steps out of its graph here: the tiles differ from batch to batch."""
    with torch.autocast(q_THD.device.type, enabled=False):
        return _TiledInterval.apply(q_THD, k_TKD, v_TKE, tiles, scale)
