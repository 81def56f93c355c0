"""The rows of a step -> who takes which, so that ranks wait least for each other. The step's sum stays what it was.

rows by cost        9  8 | 7  7 | 5  3 | 2  1        2 copies of the model, each over 2 ranks in lockstep

copy 0, rank 0      9    3                           rows of like cost share a micro-batch of a copy: its ranks
        rank 1      8    2     ...                   wait for each other in every layer
copy 1, rank 0      7    ...                         copies meet once, behind the last micro-batch: there the
        rank 1      7                                sums of what they did are evened out
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def deal(costs: Sequence[int], world: int, lockstep: int) -> list[list[int]]:
    """Numbers of the rows of each rank, in the order of its micro-batches.

    Args:
        costs: of the step's rows, a multiple of `world`.
        world: ranks.
        lockstep: ranks that wait for each other in every layer; divides `world`.
    """
    order = sorted(range(len(costs)), key=lambda row: -costs[row])
    slots = [order[i : i + lockstep] for i in range(0, len(order), lockstep)]
    most, copies = len(costs) // world, world // lockstep
    taken: list[list[list[int]]] = [[] for _ in range(copies)]
    load = [0] * copies
    for slot in slots:  # the dearest first, each to the copy that has least to do
        copy = min((c for c in range(copies) if len(taken[c]) < most), key=load.__getitem__)
        taken[copy].append(slot)
        load[copy] += costs[slot[0]]
    for own in taken:
        own.sort(key=min)  # as the rows come: one rank alone takes them in their order
    return [[slot[place] for slot in taken[copy]] for copy in range(copies) for place in range(lockstep)]


def share_of_work(costs: Sequence[int], dealt: Sequence[Sequence[int]], lockstep: int) -> float:
    """Mean over maximum: the part of the ranks' time in which they work, each micro-batch as long as its dearest row.

    Args:
        costs: of the step's rows.
        dealt: rows of each rank, equally many.
        lockstep: ranks that wait for each other in every layer.
    """
    table = np.array(costs, dtype=np.float64)[np.array(dealt)]  # [ranks, micro-batches]
    slowest = table.reshape(-1, lockstep, table.shape[1]).max(1).sum(1).max()
    return float(table.sum() / (len(dealt) * slowest)) if slowest else 1.0
