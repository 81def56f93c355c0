"""Stages that are changed while they are trained: nothing twice, nothing left out, what was trained stays."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from plan_helpers import Lengths, lengths_of, stage

from neo_lightning.data.fingerprint import fingerprint, pack_parts
from neo_lightning.data.plan import PackSpec, Plan, PlanError, Segment, StepSpec, segments_of
from neo_lightning.data.trained import VERSION, Trained
from neo_lightning.types import Stage

SOURCES = {
    name: Lengths(np.random.RandomState(i).randint(20, 90, 3000), 250) for i, name in enumerate(("text", "image"))
}


class Run:
    """A run in memory: its plan, and what a checkpoint of it says."""

    def __init__(self, stages: Mapping[str, Stage], lanes: int, state: Mapping[str, Any] | None = None) -> None:
        trained = Trained.of(state, stages, lanes) if state else None
        self.changed = trained.changed if trained else ()
        self.segments: tuple[Segment, ...] = trained.segments if trained else segments_of(stages)
        self.plan = Plan(self.segments, SOURCES, lengths_of(SOURCES), 0, lanes=lanes)
        self.position = trained.position if trained else self.plan.start()

    def train(self, steps: int) -> list[StepSpec]:
        walk = self.plan.steps(self.position)
        found = [next(walk) for _ in range(steps)]
        self.position = found[-1][1]
        return [spec for spec, _ in found]

    def state(self) -> dict[str, Any]:
        digests = {name: name for name in self.plan.sources}
        parts = fingerprint(self.segments, digests, "t", {}, seed=0, lanes=self.plan.lanes)
        state = {"version": VERSION, "digest": pack_parts(parts), **self.position.to_state()}
        return json.loads(json.dumps(state))


def packs(steps: list[StepSpec]) -> list[PackSpec]:
    return [pack for step in steps for pack in step.packs]


@pytest.mark.parametrize("lanes", [1, 3])
def test_whatever_is_changed_on_the_way_no_sample_comes_twice_or_not_at_all(lanes: int) -> None:
    stages = {"a": stage(7, 256, 3, text=1), "b": stage(40, 256, 5, text=1, image=2)}
    changes: list[dict[str, Any]] = [
        {"packs_per_step": 8},
        {"mixture": {"image": 1.0, "text": 1.0}},
        {"context": 512},
        {"steps": 90},
        {"mixture": {"text": 3.0}},
        {"steps": 400, "mixture": {"text": 1.0, "image": 1.0}, "packs_per_step": 3},
    ]
    run = Run(stages, lanes)
    seen = run.train(9)
    for number, change in enumerate(changes):
        state = run.state()
        stages = {**stages, "b": replace(stages["b"], **change)}
        run = Run(stages, lanes, state)
        assert bool(run.changed) == (set(change) != {"steps"})
        news = run.train(4 + number)
        assert all(len(step.packs) == stages["b"].packs_per_step for step in news)
        again = Run(stages, lanes, state)
        assert again.train(4 + number) == news
        assert not Run(stages, lanes, run.state()).changed, "asked once"
        seen += news
    assert len(run.segments) == 2 + len(changes), "every change has been kept"
    seen += Run(stages, lanes, run.state()).train(1600)
    assert [pack.index for pack in packs(seen)] == list(range(len(packs(seen))))
    assert [step.step for step in seen] == list(range(len(seen)))
    documents = [d for pack in packs(seen) for d in pack.documents]
    for source in SOURCES:
        first = Counter((d.shard_part, d.sample_index) for d in documents if d.source == source and d.epoch == 0)
        assert len(first) == 3000, source
        assert max(first.values()) == 1


@pytest.mark.parametrize("lanes", [1, 2])
def test_other_stages_to_come_are_those_of_a_run_that_had_them_from_the_start(lanes: int) -> None:
    first = {"a": stage(6, 256, 3, text=1), "b": stage(10, 256, 5, text=1, image=2)}
    for later in (
        {"b": stage(25, 512, 2, image=1, text=4)},
        {"c": stage(5, 256, 3, image=2), "b": first["b"]},
        {},
    ):
        for done in (3, 6):
            run, other = Run(first, lanes), {"a": first["a"], **later}
            if not later:
                other["a"] = replace(other["a"])
            before = run.train(done)
            gone_on = Run(other, lanes, run.state())
            assert not gone_on.changed
            assert before + gone_on.train(20) == Run(other, lanes).train(done + 20)


def test_the_same_stages_go_on_with_the_bundle_at_hand() -> None:
    stages = {"a": stage(6, 256, 3, text=1), "b": stage(100, 256, 5, text=1, image=2)}
    run = Run(stages, 2)
    before = run.train(17)
    again = Run(stages, 2, run.state())
    assert again.segments == segments_of(stages)
    assert before + again.train(20) == Run(stages, 2).train(37)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"a": {"mixture": {"image": 1}}},
            r"a stage that is over cannot be changed:\n  stage 'a': mixture was text: 1, is",
        ),
        ({"a": {"steps": 7}}, r"stage 'a': 6 of its steps are done, and it is to have 7"),
        ({"b": {"steps": 3}}, r"stage 'b': 4 of its steps are done, and it is to have 3"),
        ({"b": {"steps": 4, "context": 512}}, r"stage that is over .*\n  stage 'b': context was 256, is 512"),
        ({"a": None}, r"stage 'a' was trained, and there is none of that name now: b"),
    ],
)
def test_what_is_over_is_not_changed(changes: dict[str, Any], said: str) -> None:
    stages = {"a": stage(6, 256, 3, text=1), "b": stage(100, 256, 5, text=1, image=2)}
    run = Run(stages, 1)
    run.train(10)
    other = {
        name: replace(s, **changes.get(name, {})) for name, s in stages.items() if changes.get(name, {}) is not None
    }
    with pytest.raises(PlanError, match=said):
        Run(other, 1, run.state())


def test_a_stage_may_end_where_it_stands_and_the_order_of_what_was_trained_stays() -> None:
    stages = {"a": stage(6, 256, 3, text=1), "b": stage(100, 256, 5, text=1, image=2), "c": stage(9, 512, 2, image=1)}
    run = Run(stages, 1)
    run.train(10)
    ended = Run({**stages, "b": replace(stages["b"], steps=4)}, 1, run.state())
    assert {pack.stage for pack in packs(ended.train(3))} == {"c"}
    with pytest.raises(PlanError, match="trained in the stages a, b; first now: a, c"):
        Run({"a": stages["a"], "c": stages["c"], "b": stages["b"]}, 1, run.state())
    with pytest.raises(PlanError, match="damaged"):
        Run(stages, 1, {**run.state(), "digest": "nonsense"})
