"""The arithmetic of one optimiser step: what is counted, summed over ranks, and reported.

In: this rank's micro-batches. Out: the step's totals over all ranks, and a `StepReport` of plain numbers.

    loss of the step = sum(w * nll) / sum(w), both sums over all micro-batches of all ranks

So the total weight is summed before the first forward, every micro-batch backpropagates
`loss_sum * ranks / total weight`, and the averages over ranks that are taken of gradients are undone. Losses and
the gradient norm reach the host together, once per step and before the optimiser moves: a step with a loss or gradient
that is not finite is then left out by every rank alike. The price on a GPU is one short wait per step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from neo_lightning.checkpoint.shards import is_distributed
from neo_lightning.types import IGNORE, MODALITIES, PackedBatch

COUNTS = (
    *("weight", "tokens", "capacity", "supervised", "pairs"),
    *("visual", "patches", "patch_pairs", "documents", "tombstones"),
)
"""What is summed over all micro-batches of all ranks, followed by the weight per modality."""


class Votes(NamedTuple):
    """What a rank says to all others beside its losses, 0 or 1 each; summed, how many ranks say so."""

    stop: float = 0.0
    """It was asked to stop."""
    written: float = 0.0
    """Its part of the save in flight is on the disk; of the next three a rank says one, when its part is over."""
    unsaved: float = 0.0
    """Its part could not be written."""
    not_finite: float = 0.0
    """Its part is not worth keeping: a weight or optimiser state is NaN or infinite."""
    gave_up: float = 0.0
    """It was asked to stop while it waited for this step's rows, and takes part with blank ones: nobody moves."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One optimiser step, summed over all ranks. Plain numbers, so that reading them never waits for a device."""

    step: int
    """Optimiser steps done before this one."""
    stage: str
    loss: float
    """Weighted mean over the step's supervised tokens, in nats."""
    modality_loss: dict[str, float]
    """The same per modality, for the modalities that the step holds."""
    grad_norm: float
    """Before clipping."""
    lr: float
    skipped: str
    """Why the optimiser did not move ("" where it did)."""
    votes: Votes
    """Summed over all ranks."""
    counts: dict[str, float] = field(default_factory=dict)
    """`COUNTS`: sums over documents' tokens; `capacity` includes padding."""

    @property
    def stop(self) -> bool:
        """Some rank was asked to stop."""
        return self.votes.stop > 0

    @property
    def fill(self) -> float:
        """Part of the packed rows that documents fill."""
        return self.counts["tokens"] / max(1.0, self.counts["capacity"])


def count(batches: Sequence[PackedBatch]) -> Tensor:
    """Sums over micro-batches that lie on the host: [len(COUNTS) + len(MODALITIES)] float64."""
    sums = torch.zeros(len(COUNTS) + len(MODALITIES), dtype=torch.float64)
    for batch in batches:
        info, weights = batch.info, batch.weights.double()
        tokens, visual = batch.input_ids.numel(), batch.visual_index.numel()
        pairs = (batch.limit - batch.start).sum().item() if info is None else info.pairs
        supervised = (batch.targets != IGNORE).sum().item() if info is None else info.supervised
        documents, tombstones = (0, 0) if info is None else (len(info.keys), len(info.tombstones))
        within = batch.grids.long().prod(-1).square().sum().item()
        filled = tokens if info is None else info.tokens
        numbers = (filled, tokens, supervised, pairs, visual, batch.patches.shape[0], within, documents, tombstones)
        sums[0] += weights.sum()
        sums[1 : len(COUNTS)] += torch.tensor(numbers, dtype=torch.float64)
        sums[len(COUNTS) :].index_add_(0, batch.modality, weights)
    return sums


def modality_losses(batch: PackedBatch, nll: Tensor, index: Tensor) -> Tensor:
    """Weighted sums of the `nll` at places `index` per modality: [len(MODALITIES)] float32 on the device."""
    return sums_by_kind(batch.weights[index] * nll.float(), batch.modality[index], len(MODALITIES))


def sums_by_kind(values: Tensor, kind: Tensor, kinds: int) -> Tensor:
    """Sums [kinds] of values [n] by kind [n], one after the other: a device adds scattered values in any order."""
    of_kind = kind == torch.arange(kinds, device=kind.device)[:, None]
    return torch.where(of_kind, values, 0.0).sum(1)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Host values on a device. Only from page-locked memory does the host not wait for what the device is doing."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)


def sum_over_ranks(values: Tensor) -> Tensor:
    """The sum over all ranks, in place; nothing to do for one."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values


def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their norm over all ranks is at most `limit` (0: leave them); returns the norm before."""
    parameters = list(parameters)
    holders = [p for p in parameters if p.grad is not None]
    grads = [p.grad for p in holders if p.grad is not None]
    if not grads:
        return torch.zeros((), device=parameters[0].device)
    norm = torch.nn.utils.get_total_norm(grads)
    if is_distributed(norm):
        norm = norm.full_tensor()
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(holders, limit, norm)
    return norm


def reason_to_skip(*, weight: float, loss: float, grad_norm: float) -> str:
    """Why the optimiser must not move ("" if it may); the same on every rank, as the numbers are."""
    if not weight > 0:
        return "no supervised token in the step" if weight == 0 else f"total loss weight is {weight}"
    if not math.isfinite(loss):
        return "loss is not finite"
    if not math.isfinite(grad_norm):
        return "gradient is not finite"
    return ""
