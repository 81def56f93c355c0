"""Ranks that answer together: each has its part of the questions, and all take the same steps.

A sharded model needs every rank in every step, so a rank whose answers have ended, or that has no question, goes on
making passes until the answers of all have ended.

    questions  0 1 2 3 4     2 ranks: rank 0 has 0 2 4, rank 1 has 1 3
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import distributed

from neo_lightning import stopping

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes that answer together, by default this one alone."""

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where the model is; the default process group reaches it."""

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This rank's items."""
        return items[self.rank :: self.count]

    def all_ended(self, ended: bool) -> bool:
        """Whether the answers have `ended` on every rank.

        Raises:
            StoppedTogether: on all ranks, where one of them was asked to stop.
        """
        over, goes_on = ended, not stopping.asked()
        if self.count > 1:
            here = torch.tensor([over, goes_on], dtype=torch.int32, device=self.device)
            distributed.all_reduce(here, op=distributed.ReduceOp.MIN)
            over, goes_on = map(bool, here.tolist())
        if not goes_on:
            raise stopping.StoppedTogether(stopping.why() or "another rank was asked")
        return over

    def gather(self, items: Sequence[T]) -> list[T]:
        """Every rank's items, on every rank."""
        if self.count == 1:
            return list(items)
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, list(items))
        return [item for part in found for item in part]
