"""A data module -> what the page shows: batches of some packs, the stage's mixture and lengths, what is left out.

Packs are those of the run: reaching pack N means planning the packs before it (a fraction of a millisecond each),
without reading them. A stage far behind the start is looked at as a plan of its own instead (see the command).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.plan import PackSpec, Plan, PlanError, StepSpec
from neo_lightning.data.plan.report import StageReport, look_at_stage
from neo_lightning.data.rows.dataset import StepDataset
from neo_lightning.data.text.lengths import ShardPartLengths
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.report.inspect.left_out import Group, find_left_out
from neo_lightning.types import CostRatio, PackedBatch, Stage

PLANNED = 1024
"""Packs that the mixture is counted in."""

SHARD_PARTS = 64
"""Of each source whose lengths are drawn, and that are searched for what the stage leaves out."""


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """What the page shows."""

    packs: list[tuple[int, PackSpec, PackedBatch]]
    """(step, plan, row) of each pack."""
    name: str
    """Stage of the first pack; what follows is about it."""
    stage: Stage
    report: StageReport
    lengths: dict[str, np.ndarray]
    """Source -> tokens of its usable samples, in up to `SHARD_PARTS` shard parts."""
    modalities: dict[str, str]
    """Source -> modality."""
    left_out: list[Group]
    tokenizer: Tokenizer


def collect(data: NeoDataModule, *, packs: int, first_pack: int = 0) -> Inspected:
    """Plan, read and decode packs, and look at the stage of the first of them.

    Raises:
        PlanError: no pack is asked for, or the run has fewer.
    """
    if packs < 1 or first_pack < 0:
        raise PlanError(f"expected at least one pack, from pack 0 on; got {packs} from {first_pack}")
    total = sum(stage.steps * stage.packs_per_step for stage in data.stages.values())
    if first_pack >= total:
        raise PlanError(f"pack {first_pack} is behind the last: there are {total:,} packs, counted from 0")
    sources = data.sources(validation=False)
    dataset = StepDataset(sources, data.stages, data.tokenizer)
    chosen = _choose(data, packs, first_pack)
    name = chosen[0][1].stage
    stage = data.stages[name]
    notes: dict[str, str] = {}
    ratio = data.costs.get(name, CostRatio())

    def note(sample: str, _: Stage, reason: str) -> None:
        notes[sample] = reason

    lengths = ShardPartLengths(sources, data.tokenizer, note, lambda _: ratio)
    plan = Plan(
        {name: stage}, sources, lengths, data.seed, lanes=data.lanes, costs_of=lengths.costs, balance=data.balance
    )
    report = look_at_stage(plan, stage, lengths.measures, most_packs=PLANNED)
    found: dict[str, np.ndarray] = {}
    for source in stage.mixture:
        shard_parts = sources[source].shard_parts
        every = np.concatenate(
            [lengths(source, shard_part, stage) for shard_part in range(0, shard_parts, -(-shard_parts // SHARD_PARTS))]
        )
        found[source] = every[every > 0]
    return Inspected(
        packs=[(step, spec, dataset[StepSpec(step, (spec,))][0]) for step, spec in chosen],
        name=name,
        stage=stage,
        report=report,
        lengths=found,
        modalities={source: sources[source].modality for source in stage.mixture},
        left_out=find_left_out(data.manifest_path, {s: sources[s] for s in stage.mixture}, stage, lengths, notes),
        tokenizer=data.tokenizer,
    )


def _choose(data: NeoDataModule, packs: int, first_pack: int) -> list[tuple[int, PackSpec]]:
    """(step, pack) of the run's packs from a number on; those of `data.skip` are passed over, as in the run."""
    chosen: list[tuple[int, PackSpec]] = []
    last = sum(stage.steps for stage in data.stages.values())
    for spec, _ in data.plan.steps(data.plan.start()):
        chosen += [(spec.step, pack) for pack in spec.packs if pack.index >= first_pack]
        if len(chosen) >= packs or spec.step + 1 >= last:
            break
    return chosen[:packs]
