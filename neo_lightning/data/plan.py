"""Lengths of all samples -> the run's endless sequence of packs, as a pure function of (seed, stages, lengths).

    source a: epoch 0 shuffled, epoch 1 shuffled, ...   \\  drawn by weight    bundle of about    packed into rows,
    source b: epoch 0 shuffled, epoch 1 shuffled, ...   /  (in samples)   ->   64 rows' tokens -> shuffled -> packs

Nothing but lengths is looked at, so the plan of any number of ranks and workers is the same, and a bad sample found
while reading cannot move another one. Samples in rows that came out underfull go back into the next bundle (three
times at most, then their row is taken as it is): no sample is lost, and none is repeated inside a pass over its
source. At a stage switch the samples that were drawn but not yet packed go back to the head of their sources.

Trade-off: pack p is found by replaying the plan from the start of the run. That costs a few microseconds a sample
(seconds for millions), and in return a checkpoint holds one integer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import numpy as np

from neo_lightning.data.packing import FULL, pack_rows
from neo_lightning.types import Stage

BUNDLE_ROWS = 64
"""Rows' worth of tokens that are packed together: more fill better and mix wider, fewer start faster."""

MAX_WAITS = 3
"""Bundles that a sample may wait for a fuller row."""

T = TypeVar("T")

LengthsOf = Callable[[str, Stage], np.ndarray]
"""(source, stage) -> tokens of each sample [N] int; 0 where the sample is left out of this stage."""


class PlanError(ValueError):
    """The recipe and the data do not fit together."""


@dataclass(frozen=True, slots=True)
class DocumentSpec:
    """One sample in a pack."""

    source: str
    index: int
    """In its source."""
    length: int
    """Tokens, as planned; checked when the sample is read."""


@dataclass(frozen=True, slots=True)
class PackSpec:
    """One row to be filled: whose samples, in which order, under which stage's budgets."""

    index: int
    """Position in the run, from 0; -1 for an empty row that only evens out the ranks."""
    stage: str
    documents: tuple[DocumentSpec, ...]


@dataclass(slots=True)
class _Waiting:
    document: DocumentSpec
    waits: int


@dataclass(frozen=True, slots=True)
class StepSpec:
    """What one rank does in one optimiser step: one item of the dataset."""

    step: int
    packs: tuple[PackSpec, ...]


def iterate_steps(
    stages: Mapping[str, Stage], lengths_of: LengthsOf, seed: int, *, first_step: int = 0, rank: int = 0, world: int = 1
) -> Iterator[StepSpec]:
    """One rank's steps from `first_step` on: pack p of a step belongs to rank p mod world.

    Where the ranks do not divide the step's packs, empty rows even them out, so that every rank has as many.
    """
    packs = iterate_packs(stages, lengths_of, seed)
    for step, pack in enumerate(packs):  # one turn a step: the rest of its packs is taken inside
        count = stages[pack.stage].packs_per_step
        group = [pack, *islice(packs, count - 1)]
        if step >= first_step:
            group += [PackSpec(-1, pack.stage, ())] * (-count % world)
            yield StepSpec(step, tuple(group[rank::world]))


def iterate_packs(stages: Mapping[str, Stage], lengths_of: LengthsOf, seed: int) -> Iterator[PackSpec]:
    """All packs of a run; the last stage goes on without end.

    Raises:
        PlanError: a stage's source has no sample that fits.
    """
    streams: dict[str, _Stream] = {}
    first = 0
    for number, (name, stage) in enumerate(stages.items()):
        lengths = {source: lengths_of(source, stage) for source in stage.mixture}
        for source, array in lengths.items():
            if not array.any():
                raise PlanError(
                    f"stage {name!r}: none of the {len(array)} samples of source {source!r} can be used "
                    f"with a context of {stage.context} tokens"
                )
            streams.setdefault(source, _Stream(source, len(array), seed))
        last = number == len(stages) - 1
        total = None if last else stage.steps * stage.packs_per_step
        yield from _stage_packs(name, stage, lengths, streams, seed, first, total)
        first += total or 0


def one_pass(
    name: str, stage: Stage, lengths: Mapping[str, np.ndarray], rank: int = 0, world: int = 1
) -> list[StepSpec]:
    """Every sample of the sources once, one row an item; for validation. Empty rows even out the ranks."""
    pool = [
        _Waiting(DocumentSpec(source, i, int(length)), 0)
        for source, array in lengths.items()
        for i, length in enumerate(array)
        if length
    ]
    rows = _rows(pool, stage.context)
    packs = [PackSpec(i, name, tuple(item.document for item in row)) for i, row in enumerate(rows)]
    packs += [PackSpec(-1, name, ())] * (-len(packs) % world)
    return [StepSpec(step, (pack,)) for step, pack in enumerate(packs[rank::world])]


def _stage_packs(
    name: str,
    stage: Stage,
    lengths: Mapping[str, np.ndarray],
    streams: Mapping[str, _Stream],
    seed: int,
    first: int,
    total: int | None,
) -> Iterator[PackSpec]:
    draw = _draws(stage.mixture)
    pool: list[_Waiting] = []
    done = bundle = 0
    while total is None or done < total:
        tokens = sum(item.document.length for item in pool)
        while tokens < BUNDLE_ROWS * stage.context:
            source = next(draw)
            index = streams[source].take(lengths[source])
            document = DocumentSpec(source, index, int(lengths[source][index]))
            pool.append(_Waiting(document, 0))
            tokens += document.length
        random = np.random.RandomState(_entropy(seed, "bundle", name, bundle))
        rows, pool = _ready(_rows(_shuffled(pool, random), stage.context), stage.context)
        rows = _shuffled(rows, random)
        for i, row in enumerate(rows):
            if total is not None and done == total:
                pool += [item for later in rows[i:] for item in later]
                break
            yield PackSpec(first + done, name, tuple(item.document for item in _shuffled(row, random)))
            done += 1
        bundle += 1
    for item in reversed(pool):
        streams[item.document.source].give_back(item.document.index)


def _rows(pool: list[_Waiting], context: int) -> list[list[_Waiting]]:
    return [[pool[i] for i in row] for row in pack_rows([item.document.length for item in pool], context)]


def _ready(rows: list[list[_Waiting]], context: int) -> tuple[list[list[_Waiting]], list[_Waiting]]:
    """Rows to hand out, and the samples that wait. At least half of the rows go, whatever their fill."""
    by_fill = sorted(rows, key=lambda row: -sum(item.document.length for item in row))
    go, waiting = [], []
    for i, row in enumerate(by_fill):
        full = sum(item.document.length for item in row) >= FULL * context
        if full or i <= len(rows) // 2 or any(item.waits >= MAX_WAITS for item in row):
            go.append(row)
        else:
            waiting += [_Waiting(item.document, item.waits + 1) for item in row]
    return go, waiting


def _draws(mixture: Mapping[str, float]) -> Iterator[str]:
    """Sources in proportion to their weights, as evenly as whole samples allow (deficit round robin)."""
    total = sum(mixture.values())
    credit = dict.fromkeys(mixture, 0.0)
    while True:
        for source, weight in mixture.items():
            credit[source] += weight / total
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= 1.0
        yield chosen


class _Stream:
    """One source's endless chain of seeded epoch permutations, with what was given back in front."""

    def __init__(self, source: str, size: int, seed: int) -> None:
        self._source, self._size, self._seed = source, size, seed
        self._epoch, self._place = 0, 0
        self._order = self._permutation()
        self._returned: list[int] = []

    def take(self, lengths: np.ndarray) -> int:
        """Next sample that this stage can use; the others of the epoch are passed over."""
        for i in range(len(self._returned) - 1, -1, -1):
            if lengths[self._returned[i]]:
                return self._returned.pop(i)
        while True:
            if self._place == self._size:
                self._epoch, self._place = self._epoch + 1, 0
                self._order = self._permutation()
            index = int(self._order[self._place])
            self._place += 1
            if lengths[index]:
                return index

    def give_back(self, index: int) -> None:
        """Put a sample in front of the stream."""
        self._returned.append(index)

    def _permutation(self) -> np.ndarray:
        return np.random.RandomState(_entropy(self._seed, "epoch", self._source, self._epoch)).permutation(self._size)


def _entropy(seed: int, purpose: str, name: str, number: int) -> np.ndarray:
    """Seed for RandomState, whose streams numpy promises never to change."""
    digest = hashlib.sha256(f"{seed}/{purpose}/{name}/{number}".encode()).digest()
    return np.frombuffer(digest, dtype="<u4")


def _shuffled(items: list[T], random: np.random.RandomState) -> list[T]:
    return [items[i] for i in random.permutation(len(items))]
