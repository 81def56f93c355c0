"""Streams and mixtures -> packs and steps, from any position on.

    pack      0  1  2  3  4  5  6  7 | 8  9 ...          step 0 takes packs 0-7, step 1 packs 8-15, ...
    lane      0  1  2  3  0  1  2  3 | 0  1              each lane packs bundle after bundle of its own
    rank      0  1  0  1  0  1  0  1 | 0  1              only decides who reads

At the end of a stage each lane's bundle is cut short. Its samples that are in no pack yet come first in the lane's next
bundle, measured anew; those of a source that the next stage does not draw wait for one that does.

Trade-off: every process plans all lanes (0.1 ms a pack, without the reading of facts), so ranks exchange nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from neo_lightning.data.plan.bundle import COST, LENGTH, SAMPLE_INDEX, SHARD_PART, SOURCE, Bundle
from neo_lightning.data.plan.deal import deal, share_of_work
from neo_lightning.data.plan.mixture import Mixture
from neo_lightning.data.plan.position import BEGUN, BUNDLE, DONE, Position
from neo_lightning.data.plan.segments import Segment, segments_of
from neo_lightning.data.plan.specs import (
    Balance,
    CostsOf,
    DocumentSpec,
    LengthsOf,
    PackSpec,
    PlanError,
    ShardParts,
    StepSpec,
)
from neo_lightning.data.plan.streams import Stream, random_state
from neo_lightning.types import Stage

_EMPTY_BUNDLES = 100
"""So many in a row, and the stage has no samples."""

STEPS_A_BUNDLE = 16
"""With steps of like cost, at least: the more there are to sort, the more alike they are. 16 steps of 128 rows reach
97%."""

_NONE = np.empty((0, 6), dtype=np.int64)


class Plan:
    """The sequence of packs of a run; the last stage goes on without end.

    Args:
        stages: the curriculum, in order; as segments where a run was changed on its way.
        sources: at least those that the stages name.
        lengths_of: see `LengthsOf`; asked about the same shard part several times, so it should remember some.
        seed: of every shuffling.
        lanes: chains of bundles side by side. With as many as ranks each rank reads shard parts of its own.
        skip: ranges [first, last) of packs that are passed over.
        costs_of: see `CostsOf`; without it all rows cost the same.
        balance: see `Balance`. `steps` fills rows by cost as well, in larger bundles, and wants one lane.

    Raises:
        PlanError: a source has no sample that its stage can use; or steps of like cost from several lanes.
    """

    def __init__(
        self,
        stages: Mapping[str, Stage] | Sequence[Segment],
        sources: Mapping[str, ShardParts],
        lengths_of: LengthsOf,
        seed: int,
        *,
        lanes: int = 1,
        skip: Sequence[tuple[int, int]] = (),
        costs_of: CostsOf | None = None,
        balance: Balance = "none",
    ) -> None:
        if balance == "steps" and lanes > 1:
            raise PlanError(f"data.balance: steps of like cost come from one lane, data.lanes is {lanes}")
        self.segments = segments_of(stages) if isinstance(stages, Mapping) else tuple(stages)
        self._stages = [(segment.name, segment.stage) for segment in self.segments]
        self._lengths_of, self._seed = lengths_of, seed
        self.lanes, self.skip = lanes, tuple(skip)
        self._costs_of, self._balance = costs_of, balance
        self._names = list(dict.fromkeys(source for _, stage in self._stages for source in stage.mixture))
        self.sources = {name: Stream(name, sources[name], seed, lanes) for name in self._names}
        """Streams of the stages' sources, by name."""
        self.mixtures = [
            Mixture(name, stage, self.sources, lengths_of, steps=STEPS_A_BUNDLE if balance == "steps" else 0)
            for name, stage in self._stages
        ]
        """What a bundle of each stage draws."""
        self._ends = np.array([segment.end for segment in self.segments])
        self._bundles: dict[int, tuple[int, int, Bundle]] = {}  # lane -> stage, number, its latest bundle

    def start(self) -> Position:
        """In front of the first step."""
        return Position(0, 0, np.zeros((0, 3, self.lanes), dtype=np.int64))

    def steps(
        self, position: Position, rank: int = 0, world: int = 1, lockstep: int | None = None
    ) -> Iterator[tuple[StepSpec, Position]]:
        """One rank's steps from a position on, without end, each with the position behind it.

        Where the ranks do not divide the step's packs, empty rows even them out, so that every rank has as many.
        `lockstep` ranks, all of them if None, wait for each other in every layer.
        """
        step, pack, lanes = position.step, position.pack, position.lanes.copy()
        lockstep = lockstep or world
        while True:
            number = self._stage_at(step)
            name, stage = self._stages[number]
            begun = np.zeros((max(0, number + 1 - len(lanes)), 3, self.lanes), dtype=np.int64)
            lanes = np.concatenate([lanes, begun])
            group: list[tuple[int, np.ndarray]] = []
            while len(group) < stage.packs_per_step:
                samples = self._next(lanes, number, pack % self.lanes, len(group))
                if not any(first <= pack < last for first, last in self.skip):
                    group.append((pack, samples))
                pack += 1
            group += [(-1, _NONE)] * (-len(group) % world)
            costs = [stage.row_tokens + int(samples[:, COST].sum()) for _, samples in group]
            dealt = (
                [list(range(r, len(group), world)) for r in range(world)]
                if self._balance == "none"
                else deal(costs, world, lockstep)
            )
            own = tuple(PackSpec(group[i][0], name, self._documents(group[i][1])) for i in dealt[rank])
            step += 1
            yield (
                StepSpec(step - 1, own, sum(costs), share_of_work(costs, dealt, lockstep)),
                Position(step, pack, lanes.copy()),
            )

    def at(self, step: int, known: Position) -> Position:
        """The position behind `step` steps, by going there from a known one, or from the start."""
        position = known if known.step <= step else self.start()
        walk = self.steps(position, rank=1, world=2)  # half of the objects that nobody looks at
        while position.step < step:
            _, position = next(walk)
        return position

    def _stage_at(self, step: int) -> int:
        return min(int(np.searchsorted(self._ends, step, side="right")), len(self._stages) - 1)

    def _next(self, lanes: np.ndarray, stage: int, lane: int, begun: int) -> np.ndarray:
        """Samples of a lane's next pack; counts it in `lanes`. The step has `begun` packs already."""
        mine = lanes[stage, :, lane]
        for _ in range(_EMPTY_BUNDLES):
            bundle = self._bundle(lanes, stage, lane)
            if mine[DONE] < bundle.packs:
                mine[DONE] += 1
                return bundle.pack(int(mine[DONE]) - 1)
            mine[BUNDLE] += 1
            mine[DONE] = 0
            mine[BEGUN] = begun if self._balance == "steps" else 0
        raise PlanError(f"stage {self._stages[stage][0]!r}: no usable sample in {_EMPTY_BUNDLES} bundles in a row")

    def _bundle(self, lanes: np.ndarray, stage: int, lane: int, carried: np.ndarray | None = None) -> Bundle:
        """A lane's bundle in a stage, at its position there; `carried` as `_left_over` gives it, where it is known."""
        number = int(lanes[stage, BUNDLE, lane])
        if (known := self._known(stage, lane, number)) is not None:
            return known
        samples = [self._draw(lanes, stage, lane, number)]
        if number == 0:
            carried = self._left_over(lanes, stage - 1, lane) if carried is None else carried
            samples.append(self._measured(carried[self._is_drawn(carried, stage)], stage))
        random = random_state(self._seed, "bundle", stage, lane, number)
        now = self._stages[stage][1]
        step = now.packs_per_step if self._balance == "steps" else 0
        begun = int(lanes[stage, BEGUN, lane])
        bundle = Bundle(np.concatenate(samples), now.row_tokens, random, step=step, begun=begun)
        self._bundles[lane] = (stage, number, bundle)
        return bundle

    def _known(self, stage: int, lane: int, number: int) -> Bundle | None:
        known = self._bundles.get(lane)
        return known[2] if known is not None and known[:2] == (stage, number) else None

    def _draw(self, lanes: np.ndarray, stage: int, lane: int, number: int) -> np.ndarray:
        """Samples [n, 6] that a bundle takes from the streams."""
        parts = [_NONE]
        for source in self._stages[stage][1].mixture:
            before = sum(self.mixtures[s].drawn(source, lane, int(lanes[s, BUNDLE, lane]) + 1) for s in range(stage))
            first, last = (before + self.mixtures[stage].drawn(source, lane, number + i) for i in (0, 1))
            taken = self.sources[source].take(lane, first, last)
            table = np.zeros((len(taken), 6), dtype=np.int64)
            table[:, SOURCE], table[:, SOURCE + 1 : LENGTH] = self._names.index(source), taken
            parts.append(self._measured(table, stage))
        return np.concatenate(parts)

    def _left_over(self, lanes: np.ndarray, stage: int, lane: int) -> np.ndarray:
        """Samples [n, 6] that a lane had drawn and not handed out when a stage ended."""
        if stage < 0:
            return _NONE
        number, done = lanes[stage, [BUNDLE, DONE], lane].tolist()
        mixture = self._stages[stage][1].mixture
        some_wait = any(source not in mixture for _, before in self._stages[:stage] for source in before.mixture)
        carried = None
        if some_wait or (number == 0 and self._known(stage, lane, number) is None):
            carried = self._left_over(lanes, stage - 1, lane)
        rest = self._bundle(lanes, stage, lane, carried).rest(done)
        if carried is None:
            return rest
        return np.concatenate([carried[~self._is_drawn(carried, stage)], rest])

    def _is_drawn(self, samples: np.ndarray, stage: int) -> np.ndarray:
        """[n] bool: samples of the stage's sources."""
        sources = [self._names.index(source) for source in self._stages[stage][1].mixture]
        return np.isin(samples[:, SOURCE], sources)

    def _measured(self, samples: np.ndarray, stage: int) -> np.ndarray:
        """The same samples with their lengths under a stage's budgets."""
        samples = samples.copy()
        for source, shard_part in np.unique(samples[:, [SOURCE, SHARD_PART]], axis=0).tolist():
            own = (samples[:, SOURCE] == source) & (samples[:, SHARD_PART] == shard_part)
            lengths = self._lengths_of(self._names[source], shard_part, self._stages[stage][1])
            samples[own, LENGTH] = lengths[samples[own, SAMPLE_INDEX]]
            if self._costs_of is not None:
                costs = self._costs_of(self._names[source], shard_part, self._stages[stage][1])
                samples[own, COST] = costs[samples[own, SAMPLE_INDEX]]
        return samples

    def _documents(self, samples: np.ndarray) -> tuple[DocumentSpec, ...]:
        return tuple(
            DocumentSpec(self._names[source], shard_part, sample_index, length, epoch)
            for source, epoch, shard_part, sample_index, length, _ in samples.tolist()
        )


def one_pass(
    name: str, stage: Stage, sources: Mapping[str, ShardParts], lengths_of: LengthsOf, rank: int = 0, world: int = 1
) -> list[StepSpec]:
    """Every sample of the sources once, one row an item; for validation. Empty rows even out the ranks."""
    names = list(sources)
    parts = [_NONE]
    for number, source in enumerate(names):
        for shard_part in range(sources[source].shard_parts):
            lengths = lengths_of(source, shard_part, stage)
            table = np.zeros((len(lengths), 6), dtype=np.int64)
            table[:, SOURCE], table[:, SHARD_PART], table[:, SAMPLE_INDEX], table[:, LENGTH] = (
                number,
                shard_part,
                range(len(lengths)),
                lengths,
            )
            parts.append(table)
    bundle = Bundle(np.concatenate(parts), stage.row_tokens, random_state(0, "pass"))
    rows = [bundle.pack(i).tolist() for i in range(bundle.packs)]
    packs = [
        PackSpec(
            i,
            name,
            tuple(
                DocumentSpec(names[s], shard_part, sample_index, length, epoch)
                for s, epoch, shard_part, sample_index, length, _ in docs
            ),
        )
        for i, docs in enumerate(rows)
    ]
    packs += [PackSpec(-1, name, ())] * (-len(packs) % world)
    return [StepSpec(step, (pack,)) for step, pack in enumerate(packs[rank::world])]
