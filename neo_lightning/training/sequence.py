"""Rows that several ranks share: each has a part of the tokens, and in attention a part of the heads.

    rank   tokens of q, k, v, all heads         tokens of the whole row, some heads        its tokens, all heads
    0      0 .. T/S    -- all to all -->  heads 0 .. H/S    -- attend, all to all -->  0 .. T/S
    1      T/S .. 2T/S                    heads H/S .. 2H/S                            T/S .. 2T/S

Everything but attention works on a token by itself, so nothing else is exchanged (DeepSpeed-Ulysses, arXiv 2309.14509,
section 3). A rank's query heads come with the key heads that they read: S divides these, or they are repeated until it
does. Two messages a layer forward and two backward, of (2 q + 3 k) and of q columns a token; whoever recomputes a layer
sends the first two again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.axes import Design
from neo_lightning.model.layers import PackedRow


def check_sizes(shard_size: int | None, sequence_size: int, ranks: int | None = None) -> None:
    """Whether ranks form a grid [replica, shard], whose lines are cut into groups that share rows.

    Args:
        shard_size: ranks of a line; all if None.
        sequence_size: ranks of a group.
        ranks: how many there are, where that is known.

    Raises:
        ValueError: they do not; says which number does not divide which.
    """
    for name, size in (("shard_size", shard_size), ("sequence_size", sequence_size)):
        if size is not None and size < 1:
            raise ValueError(f"strategy: {name} must be at least 1, got {size}")
        if ranks is not None and size is not None and ranks % size:
            raise ValueError(f"strategy: {name} {size} does not divide the number of ranks, {ranks}")
    if shard_size is not None and shard_size % sequence_size:
        raise ValueError(
            f"strategy: sequence_size {sequence_size} does not divide shard_size {shard_size}: ranks that share rows "
            "are of one copy of the model"
        )


def key_repeats(config: NeoConfig, sequence_size: int) -> int:
    """How often key heads are repeated, so that each rank of a group has as many and those that its queries read.

    Raises:
        ValueError: the network is not NEO-ov's, or its heads cannot be dealt so.
    """
    if sequence_size > 1 and config.design != Design():
        raise ValueError("strategy: sequence_size: ranks share rows of NEO-ov, and model.design asks for another")
    heads, key_heads = config.num_attention_heads, config.num_key_value_heads
    repeats = max(1, sequence_size // key_heads)
    if heads % sequence_size or key_heads * repeats % sequence_size:
        fit = [n for n in range(1, heads + 1) if not heads % n and not (key_heads % n and n % key_heads)]
        raise ValueError(
            f"strategy: sequence_size {sequence_size} does not deal {heads} heads and {key_heads} key heads evenly; "
            f"for this model it may be {', '.join(map(str, fit))}"
        )
    return repeats


@dataclass(frozen=True, eq=False, kw_only=True)
class SharedRow(PackedRow):
    """A part of a row: rotations of its tokens, the mask of the whole row."""

    group: distributed.ProcessGroup
    """The ranks that have its parts, in their order."""
    repeats: int
    """See `key_repeats`."""

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`; T are the part's tokens."""
        ranks, tokens = self.group.size(), q_THD.shape[0]
        k, v = (x.repeat_interleave(self.repeats, 1) if self.repeats > 1 else x for x in (k_TKD, v_TKE))
        parts = [x.reshape(tokens, ranks, -1).transpose(0, 1) for x in (q_THD, k, v)]
        whole = exchange(torch.cat(parts, 2), self.group).flatten(0, 1)  # [all tokens, the columns of some heads]
        q, k, v = (
            part.unflatten(1, (-1, x.shape[2]))
            for part, x in zip(whole.split([part.shape[2] for part in parts], 1), (q_THD, k, v), strict=True)
        )
        o = super().attend(layer, q, k, v)
        heads = exchange(o.reshape(ranks, tokens, -1), self.group)
        return heads.transpose(0, 1).reshape(tokens, -1, v_TKE.shape[2])


def sharing(config: NeoConfig, group: distributed.ProcessGroup) -> Any:
    """`Neo.share` for the ranks of a group.

    Raises:
        ValueError: see `key_repeats`.
    """
    return partial(_shared, group=group, repeats=key_repeats(config, group.size()))


def _shared(row: PackedRow, **more: Any) -> SharedRow:
    return SharedRow(**vars(row), **more)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: distributed.ProcessGroup) -> Tensor:
        ctx.group = group
        return _all_to_all(x, group)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _all_to_all(grads[0], ctx.group), None


def exchange(x: Tensor, group: distributed.ProcessGroup) -> Tensor:
    """Rank r's x[s] becomes rank s's result[r]: [ranks, ...] each, with a gradient."""
    return _Exchange.apply(x, group)


def _all_to_all(x: Tensor, group: distributed.ProcessGroup) -> Tensor:
    x = x.contiguous()
    found = torch.empty_like(x)
    distributed.all_to_all_single(found, x, group=group)
    return found
