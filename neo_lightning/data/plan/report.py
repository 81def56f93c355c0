"""A recipe's plan, looked at without reading a sample: what each stage will show, how full; and what its ranks wait.

In: a plan of one stage and what is known of its parts. Out: `StageReport`. Only the first packs of a stage are planned
(thousands are enough to tell); epochs are scaled up to the whole stage, and say so by being estimates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from neo_lightning.data.plan.plan import Plan
from neo_lightning.data.text.lengths import Measures
from neo_lightning.types import Stage

MeasuresOf = Callable[[str, int, Stage], Measures]
"""(source, shard part, stage) -> measures of the shard part's samples."""

LOOKED_AT_SHARD_PARTS = 64
"""Shard parts of a source that left-out samples are counted in."""

KEPT_SHARD_PARTS = 512


@dataclass(frozen=True, kw_only=True)
class SourceReport:
    """One source in a stage."""

    asked: float
    """Share of the mixture that the recipe asks for, of samples or tokens (`Stage.mixture_unit`)."""
    samples: float
    """Share of the planned samples."""
    tokens: float
    """Share of the planned tokens."""
    supervised: float
    """Share of the planned supervised tokens."""
    epochs: float
    """Passes over the source in the whole stage."""
    left_out: int
    """Samples that the stage cannot use, among `looked_at`."""
    looked_at: int


@dataclass(frozen=True, kw_only=True)
class StageReport:
    """One stage."""

    packs: int
    """In the whole stage."""
    planned: int
    """That were looked at."""
    fill: float
    """Tokens over room for tokens."""
    tokens: int
    """In the whole stage."""
    supervised: float
    """Part of the tokens that is supervised."""
    sources: Mapping[str, SourceReport]


def share_of_work(plan: Plan, stage: Stage, *, ranks: int, lockstep: int | None, most_packs: int) -> float:
    """Expected share of the ranks' time that is work, over the first steps of a stage.

    Args:
        plan: has this stage alone, and costs.
        stage: planned for at least one step.
        ranks: how many.
        lockstep: those that wait for each other in every layer; all of them if None.
        most_packs: that are looked at.
    """
    steps = max(1, min(stage.steps, most_packs // stage.packs_per_step))
    found = [spec for spec, _ in islice(plan.steps(plan.start(), 0, ranks, lockstep), steps)]
    return sum(spec.cost for spec in found) / sum(spec.cost / spec.balance for spec in found)


def look_at_stage(plan: Plan, stage: Stage, measures_of: MeasuresOf, *, most_packs: int) -> StageReport:
    """Plan the first steps of a stage. Args: `plan` has this stage alone; at least one step is planned."""
    measures = lru_cache(KEPT_SHARD_PARTS)(lambda source, shard_part: measures_of(source, shard_part, stage))
    steps = max(1, min(stage.steps, most_packs // stage.packs_per_step))
    samples: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    supervised: Counter[str] = Counter()
    walk = plan.steps(plan.start())
    for _ in range(steps):
        spec, _ = next(walk)
        for pack in spec.packs:
            for document in pack.documents:
                measured = measures(document.source, document.shard_part)
                samples[document.source] += 1
                tokens[document.source] += document.length
                supervised[document.source] += int(measured.supervised[document.sample_index])
    planned, scale = steps * stage.packs_per_step, stage.steps / steps
    weights = sum(stage.mixture.values())
    sources = {}
    for source, weight in stage.mixture.items():
        left_out, looked_at = _left_out(plan, source, measures)
        usable = plan.sources[source].samples * (1 - left_out / max(1, looked_at))
        sources[source] = SourceReport(
            asked=weight / weights,
            samples=samples[source] / samples.total(),
            tokens=tokens[source] / tokens.total(),
            supervised=supervised[source] / max(1, supervised.total()),
            epochs=samples[source] * scale / usable,
            left_out=left_out,
            looked_at=looked_at,
        )
    return StageReport(
        packs=stage.steps * stage.packs_per_step,
        planned=planned,
        fill=tokens.total() / (planned * stage.row_tokens),
        tokens=round(tokens.total() * scale),
        supervised=supervised.total() / tokens.total(),
        sources=sources,
    )


def _left_out(plan: Plan, source: str, measures: Callable[[str, int], Measures]) -> tuple[int, int]:
    shard_parts = plan.sources[source].shard_parts
    chosen = range(0, shard_parts, -(-shard_parts // LOOKED_AT_SHARD_PARTS))
    lengths = [measures(source, shard_part).length for shard_part in chosen]
    return sum(int((own == 0).sum()) for own in lengths), sum(map(len, lengths))
