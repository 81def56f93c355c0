"""Interval attention by FlexAttention, compiled: for comparison, and a fallback on GPUs that Triton's descriptors miss.

Its block mask comes from the bounds of each block's first and last row, so nothing of size T x T is made and nothing
waits for the device. On a CPU it runs uncompiled and, as torch has it, without a backward pass.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

BLOCK = 128
"""Rows and keys of a block of the mask, FlexAttention's own."""


def prepare(start: Tensor, limit: Tensor) -> Any:
    """A BlockMask: which blocks of keys a block of rows needs, and which of those need no mask."""
    from torch.nn.attention.flex_attention import BlockMask

    t = start.numel()
    block = torch.arange(-(-t // BLOCK), device=start.device)
    first, last = block * BLOCK, (block * BLOCK + BLOCK - 1).clamp(max=t - 1)
    whole = (block >= _up(start[last])[:, None]) & (block < (limit[first] // BLOCK)[:, None])
    touched = (block >= (start[first] // BLOCK)[:, None]) & (block < _up(limit[last])[:, None])

    def visible(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j >= start[i]) & (j < limit[i])

    lists = *_listed(touched & ~whole), *_listed(whole)
    return BlockMask.from_kv_blocks(*lists, BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(t, t))


def _up(x: Tensor) -> Tensor:
    return (x + BLOCK - 1) // BLOCK


def _listed(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """[rows, keys] bool -> how many of each row, and their numbers first."""
    order = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
    return chosen.sum(-1, dtype=torch.int32)[None, None], order.int()[None, None]


@functools.cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention)


def attend(
    q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, mask: Any, scale: float, options: dict[str, Any] | None = None
) -> Tensor:
    """See `interval_attention`; `options` are FlexAttention's for its kernels."""
    from torch.nn.attention.flex_attention import flex_attention

    flex = _compiled() if q_THD.is_cuda else flex_attention
    q, k, v = (x.transpose(0, 1)[None] for x in (q_THD, k_TKD, v_TKE))
    o = flex(q, k, v, block_mask=mask, scale=scale, enable_gqa=q.shape[1] != k.shape[1], kernel_options=options)
    return o[0].transpose(0, 1)
