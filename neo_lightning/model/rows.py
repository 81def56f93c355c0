"""Rows of tokens whose keys and values go into the cache: parts of prompts, and one new token of each sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from neo_lightning.model.cache import Cache
from neo_lightning.model.layers import PackedRow, Row
from neo_lightning.model.neo import DecodeStep, Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.ops.interval_attention import cached_attention, continued_attention
from neo_lightning.ops.interval_attention.cached import Spans


class Part(NamedTuple):
    """Tokens [start, end) of a prompt; those before are in the cache."""

    prompt: Prompt
    first: int
    """Place of the prompt's first token in the cache."""
    start: int
    end: int


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefillRow(PackedRow):
    """Beginnings of prompts, packed: their tokens see each other alone."""

    cache: Cache
    place: Tensor
    """[T] where a token goes in the cache."""

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        self.cache.store(layer, k_TKD, v_TKE, self.place)
        return super().attend(layer, q_THD, k_TKD, v_TKE)


@dataclass(frozen=True, eq=False, kw_only=True)
class ContinuedRow(Row):
    """Parts of prompts of which some have their beginnings in the cache."""

    cache: Cache
    place: Tensor
    """[T] likewise."""
    parts: tuple[Part, ...]
    limits: tuple[Sequence[int], ...]
    """For each part's tokens: one past the last token of their own prompt that they see."""
    limit: Tensor
    """[T] the same on the device."""
    other: tuple[frozenset[int], tuple[Sequence[int], ...], Tensor] | None = None
    """Layers with a mask of their own, and their `limits` and `limit`."""

    def at(self, layer: int) -> Row:
        """See `Row`."""
        if self.other is None or layer not in self.other[0]:
            return self
        return replace(self, limits=self.other[1], limit=self.other[2])

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        keys, values = self.cache.store(layer, k_TKD, v_TKE, self.place)
        found, at = [], 0
        for (_, first, start, end), limits in zip(self.parts, self.limits, strict=True):
            rows, range_ = slice(at, at + end - start), slice(first, first + end)
            found.append(
                continued_attention(
                    q_THD[rows],
                    keys[:, range_],
                    values[:, :, range_],
                    limits,
                    self.limit[rows],
                    scale=v_TKE.shape[-1] ** -0.5,
                )
            )
            at = rows.stop
        return torch.cat(found)


@dataclass(frozen=True, eq=False, kw_only=True)
class DecodeRow(Row):
    """One new token of each sequence; it sees all of its sequence so far."""

    cache: Cache
    place: Tensor
    """[B] where the new token goes."""
    spans: Spans

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        keys, values = self.cache.store(layer, k_TKD, v_TKE, self.place)
        return cached_attention(q_THD, keys, values, self.spans, scale=v_TKE.shape[-1] ** -0.5)


def prefill_step(model: Neo, cache: Cache, parts: Sequence[Part], whole: Sequence[bool]) -> DecodeStep:
    """Parts of prompts as one row. Logits are wanted behind those that end with their prompt (`whole`)."""
    device = model.head_weight.device
    sizes = torch.tensor([part.end - part.start for part in parts])
    ends = sizes.cumsum(0)
    positions = torch.cat([part.prompt.layout[0][part.start : part.end] for part in parts]).to(device)
    limit = torch.cat([part.prompt.layout[1][part.start : part.end] for part in parts])
    place = torch.cat([torch.arange(part.first + part.start, part.first + part.end) for part in parts]).to(device)
    ids = torch.cat([part.prompt.input_ids[part.start : part.end].to(device) for part in parts])
    shown = torch.cat([part.prompt.visual[part.start : part.end].cpu() for part in parts])
    of_units: tuple[Tensor, ...] = ()
    if shown.any():
        of_units = shown.nonzero().squeeze(-1).to(device), _row_index(parts, ends - sizes).to(device)
    row: Row
    if any(part.start for part in parts):
        row = ContinuedRow(
            rope=model.rope(positions),
            order=model.order(device),
            split=model.split(int(ends[-1]), *of_units),
            cache=cache,
            place=place,
            parts=tuple(parts),
            limits=tuple(part.prompt.limits[part.start : part.end] for part in parts),
            limit=limit.to(device),
            other=_causal(model, parts),
        )
    else:
        start = torch.repeat_interleave(ends - sizes, sizes)
        packed = model.row(positions, start.int().to(device), (limit + start).int().to(device), *of_units)
        row = PrefillRow(**vars(packed), cache=cache, place=place)
    visual = None
    if of_units:
        seen = [part.prompt.pixels(part.start, part.end) for part in parts]
        seen = [(patches, grids) for patches, grids in seen if patches.shape[0]]
        grids = torch.cat([grids.cpu().int() for _, grids in seen]) * 2
        patches = torch.cat([patches.to(device) for patches, _ in seen])
        visual = of_units[0], patches, grids.to(device), of_units[1]
    last = torch.tensor([end - 1 for end, ended in zip(ends.tolist(), whole, strict=True) if ended], dtype=torch.long)
    return DecodeStep(input_ids=ids, row=row, last=last.to(device), visual=visual)


def _row_index(parts: Sequence[Part], begins: Tensor) -> Tensor:
    """[R] int64: the row tokens of images, in a row in which the parts begin at `begins`."""
    found = []
    for part, begin in zip(parts, begins.tolist(), strict=True):
        places = part.prompt.row_places
        found.append(places[(places >= part.start) & (places < part.end)] - part.start + begin)
    return torch.cat(found)


def _causal(model: Neo, parts: Sequence[Part]) -> tuple[frozenset[int], tuple[Sequence[int], ...], Tensor] | None:
    """`ContinuedRow.other` of a network with causal layers."""
    if not (layers := model.config.causal_layers):
        return None
    limits = tuple(range(part.start + 1, part.end + 1) for part in parts)
    return layers, limits, torch.cat([torch.tensor(own) for own in limits]).to(model.head_weight.device)


def idle_step(model: Neo) -> DecodeStep:
    """One token of no meaning, which nothing keeps."""
    none = torch.zeros(1, dtype=torch.int32, device=model.head_weight.device)
    row = model.row(none[:, None].expand(1, 3), none, none + 1)
    return DecodeStep(input_ids=none.long(), row=row, last=None)
