"""Samples that are packed together -> their packs, as arrays: a pack becomes objects only when it is handed out."""

from __future__ import annotations

from itertools import chain

import numpy as np

from neo_lightning.data.plan.packing import pack_rows

SOURCE, EPOCH, SHARD_PART, SAMPLE_INDEX, LENGTH = range(5)
"""Columns of the samples' table; SOURCE counts the plan's sources."""


class Bundle:
    """Packs of some samples in a shuffled order. Nothing outside a bundle decides how it is packed."""

    def __init__(self, samples: np.ndarray, context: int, random: np.random.RandomState) -> None:
        """Args: `samples` [n, 5] int64 (see the columns above); those of length 0 are left out."""
        samples = samples[samples[:, LENGTH] > 0]
        samples = samples[random.permutation(len(samples))]
        rows = pack_rows(samples[:, LENGTH].tolist(), context)
        # a row's documents in the shuffled order: packing would put the longest first
        shuffled = [sorted(rows[i]) for i in random.permutation(len(rows)).tolist()]
        self._samples = samples[np.fromiter(chain.from_iterable(shuffled), dtype=np.int64)]
        self._ends = np.cumsum([0, *map(len, shuffled)])

    @property
    def packs(self) -> int:
        """Number of packs."""
        return len(self._ends) - 1

    def pack(self, index: int) -> np.ndarray:
        """Samples of one pack [n, 5]."""
        return self._samples[self._ends[index] : self._ends[index + 1]]

    def rest(self, first: int) -> np.ndarray:
        """Samples of the packs from `first` on [n, 5]."""
        return self._samples[self._ends[first] :]
