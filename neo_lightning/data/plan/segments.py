"""The stages as the plan takes them: each to its end, or to the step at which it was changed.

    recipe at first     one ........ | two ............................ |
    changed at step 7   one ........ | two (as it was) 7 two (anew) ........ | three ...

A stage that is changed on its way ends where it stands, and goes on as a stage of the new kind: samples that were drawn
and are in no pack yet come first in its first bundle, as at every switch of stages. So whatever is changed, nothing is
seen twice or left out in an epoch, and the steps that were done stay what they were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from neo_lightning.data.plan.specs import PlanError
from neo_lightning.types import CostRatio, Stage

PLANNED = (
    "steps",
    "context",
    "row",
    "packs_per_step",
    "mixture",
    "mixture_unit",
    "image",
    "video",
    "loss_weighting",
    "too_long",
)
"""Fields of a stage that decide about its packs, or about what is in them."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stage, or the part of one that was trained by these fields."""

    name: str
    stage: Stage
    """As it was planned: its `steps` size the bundles, also where another took its place earlier."""
    end: int
    """Steps of the run that are done when it ends."""
    ratio: CostRatio = field(default_factory=CostRatio)
    """What its documents cost: with it steps were made, whatever they would cost now."""


def segments_of(stages: Mapping[str, Stage], costs: Mapping[str, CostRatio] | None = None) -> tuple[Segment, ...]:
    """Stages that were never changed."""
    ends, ratio_of = accumulate(stage.steps for stage in stages.values()), {**(costs or {})}
    return tuple(
        Segment(name, stage, end, ratio_of.get(name, CostRatio()))
        for (name, stage), end in zip(stages.items(), ends, strict=True)
    )


def resumed(
    stages: Mapping[str, Stage], begun: Sequence[Segment], step: int, costs: Mapping[str, CostRatio] | None = None
) -> tuple[tuple[Segment, ...], list[str]]:
    """The segments of a run that goes on with other stages, and what of the stage it stands in is otherwise.

    Args:
        stages: what is asked for now.
        begun: the segments of the steps that were done.
        step: how many those are.
        costs: stage -> what its documents cost now.

    Raises:
        PlanError: a stage that is over is not as it was, or is to end before the step.
    """
    names = list(dict.fromkeys(segment.name for segment in begun))
    if (first := list(stages)[: len(names)]) != names:
        raise PlanError(f"{step} steps were trained in the stages {', '.join(names)}; first now: {', '.join(first)}")
    changed: list[str] = []
    starts = [0, *(segment.end for segment in begun)]
    kept = list(begun)
    for name in names:
        own = [i for i, segment in enumerate(begun) if segment.name == name]
        old, now, last = begun[own[-1]], stages[name], name == names[-1]
        done = (step if last else old.end) - starts[own[0]]
        length = old.stage.steps + starts[own[-1]] - starts[own[0]]  # of the stage as it was asked for
        found = [
            f"stage {name!r}: {field} was {was}, is {is_}"
            for field in PLANNED
            if field != "steps" and (was := _plain(old.stage, field)) != (is_ := _plain(now, field))
        ]
        if now.steps < done or (not last and now.steps != done):
            raise PlanError(f"stage {name!r}: {done} of its steps are done, and it is to have {now.steps}")
        if found and now.steps == done:
            raise PlanError("a stage that is over cannot be changed:\n  " + "\n  ".join(found))
        if last and (found or now.steps != length):
            kept[-1], changed = replace(old, end=step), found
            if left := now.steps - done:
                kept.append(Segment(name, replace(now, steps=left), step + left, (costs or {}).get(name, old.ratio)))
    later = list(stages.items())[len(names) :]
    before = kept[-1].end if kept else 0
    return (*kept, *(replace(s, end=before + s.end) for s in segments_of(dict(later), costs))), changed


def _plain(stage: Stage, field: str) -> object:
    """A field's value; of a mixture in its order, which shuffles follow."""
    value = getattr(stage, field)
    return ", ".join(f"{name}: {weight}" for name, weight in value.items()) if isinstance(value, Mapping) else value
