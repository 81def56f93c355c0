"""Ranks that answer together: each has its part of the questions, and all take the same steps.

A sharded model needs every rank in every step, so a rank whose answers have ended goes on until those of all have, and
a rank with fewer questions repeats one.

    questions  0 1 2 3 4 5 6     2 ranks, batches of 2
    rank 0     [0 2]  [4 6]
    rank 1     [1 3]  [5]        (with 5 questions: [1 3] and, not counted, [0])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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

    def deal(self, items: Sequence[T], size: int) -> Iterator[tuple[list[T], bool]]:
        """This rank's batches of up to `size` items, and whether they count: as many batches on every rank."""
        mine = items[self.rank :: self.count]
        for at in range(0, len(items[:: self.count]), size):
            batch = list(mine[at : at + size])
            yield (batch, True) if batch else (list(items[:1]), False)

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
