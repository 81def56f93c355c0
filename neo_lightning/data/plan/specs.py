"""What the plan takes and gives: shard parts and their lengths in, specifications of steps out. Nothing else passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from neo_lightning.types import Stage


class PlanError(ValueError):
    """The recipe and the data, or a checkpoint's position and the plan, do not fit together."""


class ShardParts(Protocol):
    """What the plan needs of a source (see data.index): samples in shard parts, which are read together."""

    @property
    def shard_parts(self) -> int:
        """Number of shard parts."""

    def shard_part_size(self, shard_part: int) -> int:
        """Samples of a shard part; cheap."""


LengthsOf = Callable[[str, int, Stage], np.ndarray]
"""(source, shard part, stage) -> tokens of each of the shard part's samples [n] int; 0 where a sample is left out."""

CostsOf = Callable[[str, int, Stage], np.ndarray]
"""(source, shard part, stage) -> work of each of the shard part's samples beyond that of its tokens [n] int, in tokens'
worth of work."""

Balance = Literal["none", "slots", "steps"]
"""Rows of a step as they come; dealt so that ranks wait least for each other; or steps of rows of like cost as well."""


@dataclass(frozen=True, slots=True)
class DocumentSpec:
    """One sample in a pack."""

    source: str
    shard_part: int
    sample_index: int
    """In its shard part."""
    length: int
    """Tokens, as planned; checked when the sample is read."""
    epoch: int = 0
    """Passes over the source that were dealt before this one."""


@dataclass(frozen=True, slots=True)
class PackSpec:
    """One row to be filled: whose samples, in which order, under which stage's budgets."""

    index: int
    """Position in the run, from 0; -1 for an empty row that only evens out the ranks."""
    stage: str
    documents: tuple[DocumentSpec, ...]


@dataclass(frozen=True, slots=True)
class StepSpec:
    """What one rank does in one optimiser step: one item of the dataset."""

    step: int
    packs: tuple[PackSpec, ...]
    cost: int = 0
    """Work of all ranks' rows, in tokens' worth of it."""
    balance: float = 1.0
    """Expected share of the ranks' time that is work: the rest waits for the rank with the dearest row."""

    def __str__(self) -> str:
        return f"packs {', '.join(str(pack.index) for pack in self.packs)} of step {self.step}"
