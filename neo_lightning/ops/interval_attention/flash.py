"""Interval attention by flash-attn, where that is installed: two causal calls, merged by their log-sum-exps.

flash-attn knows causal documents, not intervals. What a unit of n bidirectional tokens sees beyond the causal part is
the strict upper triangle of its square; with the unit's last query and first key left out, and both turned around, that
is causal as well:

    rows a b c d          a sees  b c d          turned around   c: d
    of one unit           b sees    c d                          b: d c
                          c sees      d                          a: d c b

Each part's backward pass, given the merged output and log-sum-exp, makes exactly its part of the gradients. Values are
padded to the keys' width, as flash-attn wants equal ones. Trade-offs: half dtypes only, widths up to 256, and the
lengths are read on the host once per batch. Any other mask of intervals is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Part(NamedTuple):
    """Sequences that lie behind each other."""

    ends: Tensor
    """[sequences + 1] int32, where each begins, and the end."""
    longest: int


class Calls(NamedTuple):
    """The two calls that make up the mask."""

    documents: Part
    units: Part
    rows: Tensor
    """[M] int64: the queries of the second call; each meets its successor as a key. Empty without units."""


class Varlen(NamedTuple):
    """Causal attention of packed sequences with its log-sum-exp (natural logarithm, [H, T] float32)."""

    forward: Callable[[Tensor, Tensor, Tensor, Part, float], tuple[Tensor, Tensor]]
    """(q, k, v, part, scale) -> (o, lse)."""
    backward: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """(do, q, k, v, o, lse, part, scale) -> (dq, dk, dv)."""


def _library() -> Any:
    try:
        from flash_attn import flash_attn_interface
    except ImportError as error:
        raise ImportError("attention backend 'flash' needs flash-attn: pip install 'neo-lightning[flash]'") from error
    return flash_attn_interface


def _flash_forward(q: Tensor, k: Tensor, v: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
    lengths = part.ends, part.ends, part.longest, part.longest
    call = _library()._flash_attn_varlen_forward
    o, lse, *_ = call(q, k, v, *lengths, dropout_p=0.0, softmax_scale=scale, causal=True)
    return o, lse


def _flash_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, part: Part, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    lengths = part.ends, part.ends, part.longest, part.longest
    _library()._flash_attn_varlen_backward(
        *(do, q, k, v, o, lse, *grads, *lengths),
        dropout_p=0.0,
        softmax_scale=scale,
        causal=True,
        window_size_left=-1,
        window_size_right=-1,
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
    )
    return grads


FLASH_ATTN = Varlen(_flash_forward, _flash_backward)


def prepare(start: Tensor, limit: Tensor) -> Calls:
    """Cut the row into documents and units. Reads lengths on the host.

    Raises:
        ValueError: the bounds are not those of causal text with bidirectional units.
    """
    _, documents = start.unique_consecutive(return_counts=True)
    unit_ends, sizes = limit.unique_consecutive(return_counts=True)
    if not torch.equal(unit_ends, sizes.cumsum(0).to(unit_ends.dtype)):
        raise ValueError("the flash attention backend takes causal text and bidirectional units only")
    unit_ends, sizes = unit_ends[sizes > 1].long(), sizes[sizes > 1] - 1
    part = _part(sizes)
    place = torch.arange(int(part.ends[-1]), device=start.device)
    unit = torch.repeat_interleave(sizes)
    rows = (unit_ends - 2)[unit] - (place - part.ends[:-1].long()[unit])
    return Calls(_part(documents), part, rows)


def _part(lengths: Tensor) -> Part:
    longest = int(lengths.max()) if lengths.numel() else 0
    return Part(F.pad(lengths.cumsum(0), (1, 0)).int(), longest)


class _TwoCalls(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, calls: Calls, scale: float, varlen: Varlen) -> Tensor:
        o, lse = varlen.forward(q, k, v, calls.documents, scale)
        rows, keys = calls.rows, calls.rows + 1
        if rows.numel():
            o_above, above = varlen.forward(q[rows], k[keys], v[keys], calls.units, scale)
            below = lse[:, rows]
            merged = torch.logaddexp(below, above)
            share, share_above = ((x - merged).exp().t()[..., None] for x in (below, above))
            o, lse = o.clone(), lse.clone()
            o[rows] = (o[rows] * share + o_above * share_above).to(o.dtype)
            lse[:, rows] = merged
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.rest = calls, scale, varlen
        return o

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        calls, scale, varlen = ctx.rest
        do, rows, keys = grads[0].contiguous(), calls.rows, calls.rows + 1
        dq, dk, dv = varlen.backward(do, q, k, v, o, lse, calls.documents, scale)
        if rows.numel():
            inputs = do[rows], q[rows], k[keys], v[keys], o[rows], lse[:, rows].contiguous()
            above = varlen.backward(*inputs, calls.units, scale)
            for total, part, index in zip((dq, dk, dv), above, (rows, keys, keys), strict=True):
                total[index] += part  # no row and no key occurs twice
        return dq, dk, dv, None, None, None


@torch.compiler.disable
def attend(
    q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, calls: Calls, scale: float, varlen: Varlen = FLASH_ATTN
) -> Tensor:
    """See `interval_attention`; `varlen` is the library's causal attention."""
    d, e = q_THD.shape[-1], v_TKE.shape[-1]
    v = F.pad(v_TKE, (0, d - e)) if e < d else v_TKE
    return _TwoCalls.apply(q_THD, k_TKD, v, calls, scale, varlen)[..., :e]
