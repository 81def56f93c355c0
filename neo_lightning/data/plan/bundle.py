"""Samples that are packed together -> their packs, as arrays: a pack becomes objects only when it is handed out."""

from __future__ import annotations

from itertools import chain

import numpy as np

from neo_lightning.data.plan.even import even_rows
from neo_lightning.data.plan.packing import pack_rows

SOURCE, EPOCH, SHARD_PART, SAMPLE_INDEX, LENGTH, COST = range(6)
"""Columns of the samples' table; SOURCE counts the plan's sources, COST is work beyond that of the tokens."""


class Bundle:
    """Packs of some samples in a shuffled order. Nothing outside a bundle decides how it is packed."""

    def __init__(
        self, samples: np.ndarray, context: int, random: np.random.RandomState, *, step: int = 0, begun: int = 0
    ) -> None:
        """
        Args:
            samples: [n, 6] int64 (see the columns above); those of length 0 are left out.
            context: tokens of a row.
            random: of every shuffling.
            step: packs of a step, which are then packs of like cost; 0 leaves the cost out of it.
            begun: packs that the step has already in which the bundle begins.
        """
        samples = samples[samples[:, LENGTH] > 0]
        samples = samples[random.permutation(len(samples))]
        lengths, costs = samples[:, LENGTH].tolist(), samples[:, COST].tolist()
        rows = even_rows(lengths, costs, context) if step else pack_rows(lengths, context)
        # a row's documents in the shuffled order: packing would put the longest first
        shuffled = [sorted(rows[i]) for i in random.permutation(len(rows)).tolist()]
        if step:
            order = like_steps(np.array([sum(costs[i] for i in row) for row in shuffled]), step, begun, random)
            shuffled = [shuffled[i] for i in order]
        self._samples = samples[np.fromiter(chain.from_iterable(shuffled), dtype=np.int64)]
        self._ends = np.cumsum([0, *map(len, shuffled)])

    @property
    def packs(self) -> int:
        """Number of packs."""
        return len(self._ends) - 1

    def pack(self, index: int) -> np.ndarray:
        """Samples of one pack [n, 6]."""
        return self._samples[self._ends[index] : self._ends[index + 1]]

    def rest(self, first: int) -> np.ndarray:
        """Samples of the packs from `first` on [n, 6]."""
        return self._samples[self._ends[first] :]


def like_steps(costs: np.ndarray, step: int, begun: int, random: np.random.RandomState) -> list[int]:
    """An order of rows in which those of a step cost alike, while the steps come in any order.

        rows by cost    | step | step | middle | step | step |        the middle rows complete the step in which the
                                                                       bundle before ended, and begin the next one's
        order           middle | step | step | step | step | middle

    Args:
        costs: of the rows [n].
        step: rows of a step.
        begun: rows that the first step has already.
        random: of the steps' order.
    """
    rows = np.argsort(costs, kind="stable")
    first = min(-begun % step, len(rows))
    last = (len(rows) - first) % step
    low = (len(rows) - first - last) // step // 2 * step
    middle, whole = rows[low : low + first + last], np.concatenate([rows[:low], rows[low + first + last :]])
    steps = whole.reshape(-1, step)
    return [
        *middle[:first].tolist(),
        *steps[random.permutation(len(steps))].reshape(-1).tolist(),
        *middle[first:].tolist(),
    ]
