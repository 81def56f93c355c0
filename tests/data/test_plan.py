"""The plan's promises: one sequence of packs for any ranks, stops and resumes; nothing lost, nothing twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_helpers import Lengths, drawn_scenes, lengths_of, realistic, stage

from neo_lightning.data.plan import PackSpec, Plan, PlanError, Position, StepSpec, one_pass
from neo_lightning.data.plan.report import look_at_stage
from neo_lightning.data.plan.streams import SLICES, Stream
from neo_lightning.data.text.lengths import Measures
from neo_lightning.types import Stage

RANDOM = np.random.RandomState(0)
SOURCES = {
    "text": Lengths(RANDOM.randint(8, 60, 500), 40),
    "image": Lengths(RANDOM.randint(20, 90, 700)),
    "video": Lengths(RANDOM.randint(60, 200, 150), 150),
}
STAGES = {
    "text": stage(10, 256, 2, text=1),
    "mid": stage(60, 512, 4, text=2, image=4, video=1),
    "sft": stage(40, 1024, 3, image=1, video=1),
}


def make(stages: dict[str, Stage] | None = None, sources: dict[str, Lengths] | None = None, **options: int) -> Plan:
    sources = sources or SOURCES
    return Plan(stages or STAGES, sources, lengths_of(sources), options.pop("seed", 0), **options)


def steps(plan: Plan, n: int, position: Position | None = None) -> list[tuple[StepSpec, Position]]:
    return list(islice(plan.steps(position or plan.start()), n))


def packs(plan: Plan, n: int) -> list[PackSpec]:
    found: Iterator[PackSpec] = (pack for spec, _ in plan.steps(plan.start()) for pack in spec.packs)
    return list(islice(found, n))


def samples(rows: list[PackSpec]) -> Counter[tuple[str, int, int, int]]:
    return Counter((d.source, d.epoch, d.shard_part, d.sample_index) for pack in rows for d in pack.documents)


def fill(rows: list[PackSpec], context: int) -> float:
    return float(np.mean([sum(d.length for d in pack.documents) / context for pack in rows]))


def saved(position: Position, lanes: int) -> Position:
    return Position.from_state(json.loads(json.dumps(position.to_state())), lanes)


def test_rows_never_overflow_and_carry_their_stage() -> None:
    for number, pack in enumerate(packs(make(), 20 + 240 + 200)):
        name = "text" if number < 20 else "mid" if number < 260 else "sft"
        assert (pack.index, pack.stage) == (number, name)
        assert 0 < sum(d.length for d in pack.documents) <= STAGES[name].context
        assert all(d.length == SOURCES[d.source].part(d.shard_part)[d.sample_index] for d in pack.documents)


@st.composite
def curricula(draw: st.DrawFn) -> dict[str, Stage]:
    names = st.lists(st.sampled_from(["text", "image", "video"]), min_size=1, max_size=3, unique=True)
    return {
        f"s{i}": stage(
            draw(st.integers(1, 25)),
            draw(st.sampled_from([200, 256, 500])),
            draw(st.integers(1, 6)),
            **{name: draw(st.sampled_from([0.3, 1, 5])) for name in draw(names)},
        )
        for i in range(draw(st.integers(1, 4)))
    }


@settings(max_examples=8, deadline=None)
@given(
    curricula(),
    st.sampled_from([1, 2, 3, 5]),
    st.lists(st.tuples(st.integers(0, 25), st.integers(1, 7)), min_size=1, max_size=5),
)
def test_any_ranks_and_any_stops_give_one_sequence(
    stages: dict[str, Stage], lanes: int, runs: list[tuple[int, int]]
) -> None:
    """Each run trains some steps on some ranks and is stopped; each next one starts from the saved position."""
    whole = steps(make(stages, lanes=lanes), sum(n for n, _ in runs))
    position = make(stages, lanes=lanes).start()
    done = 0
    for n, world in runs:
        plan = make(stages, lanes=lanes)
        shares = [list(islice(plan.steps(saved(position, lanes), rank, world), n)) for rank in range(world)]
        for at, ranks in enumerate(zip(*shares, strict=True)):
            expected, behind = whole[done + at]
            dealt = [ranks[i % world][0].packs[i // world] for i in range(len(ranks[0][0].packs) * world)]
            assert tuple(dealt[: len(expected.packs)]) == expected.packs
            assert all(pack.index == -1 and not pack.documents for pack in dealt[len(expected.packs) :])
            assert all(p.to_state() == behind.to_state() for _, p in ranks)
            position = behind
        done += n


@pytest.mark.parametrize("world", range(1, 8))
def test_every_rank_has_as_many_rows_and_no_more_than_it_takes(world: int) -> None:
    plan = make({"one": stage(10, 256, 5, text=1)})
    rows = [len(next(plan.steps(plan.start(), rank, world))[0].packs) for rank in range(world)]
    assert rows == [-(-5 // world)] * world


@settings(max_examples=15, deadline=None)
@given(curricula(), st.sampled_from([1, 2, 4]), st.integers(0, 5))
def test_nothing_is_lost_and_nothing_comes_twice(stages: dict[str, Stage], lanes: int, seed: int) -> None:
    plan = make(stages, lanes=lanes, seed=seed)
    trained = sum(s.steps for s in stages.values()) + 20
    seen = samples([pack for spec, _ in steps(plan, trained) for pack in spec.packs])
    assert max(seen.values()) == 1, "twice in one epoch"
    # an epoch is complete, or part of it still waits: of a source that is drawn to the end, only the latest ones are
    final = next(reversed(stages.values()))
    for source in final.mixture:
        by_epoch = Counter(epoch for name, epoch, _, _ in seen if name == source)
        fits = int((SOURCES[source].lengths <= min(s.context for s in stages.values())).sum())
        ahead = plan.mixtures[-1].rows * final.context * lanes // 8 // fits + lanes + 1
        late = max(by_epoch, default=0) - ahead
        assert all(by_epoch[epoch] >= fits for epoch in range(late)), (source, by_epoch)


@pytest.mark.parametrize("lanes", [1, 3])
def test_samples_of_cut_bundles_come_once_in_the_next_stages(lanes: int) -> None:
    many = {"image": Lengths(np.random.RandomState(1).randint(20, 90, 9000), 500)}
    stages = {f"s{i}": stage(5, 300 + 100 * (i % 3), 3 + i % 2, image=1) for i in range(9)}
    order = [d for pack in packs(make(stages, many, lanes=lanes), 1500) for d in pack.documents]
    first = Counter((d.shard_part, d.sample_index) for d in order if d.epoch == 0)
    assert len(first) == 9000
    assert max(first.values()) == 1


def test_samples_wait_for_a_stage_that_draws_their_source() -> None:
    stages = {"a": stage(4, 256, 2, text=1), "b": stage(3, 512, 2, video=1), "c": stage(400, 256, 2, text=1)}
    plan = make(stages)
    found = steps(plan, 150)
    seen = samples([pack for spec, _ in found for pack in spec.packs])
    assert all(count == 1 for count in seen.values())
    assert sum(name == "text" and epoch == 0 for name, epoch, _, _ in seen) == 500
    resumed = steps(make(stages), 143, saved(found[6][1], 1))  # two stages after the cut, nothing else known
    assert [spec for spec, _ in resumed] == [spec for spec, _ in found[7:]]


def test_a_resume_plans_one_bundle_of_each_lane() -> None:
    asked: Counter[tuple[str, int]] = Counter()
    big = {"text": Lengths(np.random.RandomState(0).randint(50, 500, 100_000), 500)}
    measure = lengths_of(big)

    def counted(source: str, unit: int, s: Stage) -> np.ndarray:
        asked[source, unit] += 1
        return measure(source, unit, s)

    stages = {"a": stage(3000, 2048, 4, text=1)}
    _, position = steps(make(stages, big, lanes=2), 2500)[-1]
    plan = Plan(stages, big, counted, 0, lanes=2)
    asked.clear()
    assert len(steps(plan, 1, saved(position, 2))) == 1
    assert sum(asked.values()) <= 2 * 14, "slices of one bundle come from few units"
    assert int(position.lanes[0, 0].min()) > 5, "there were many bundles before"


def test_small_contexts_are_filled_to_98_percent() -> None:
    scenes = drawn_scenes(RANDOM)
    rows = packs(make({"a": stage(4000, 512, 1, text=2, image=4, multi_image=3, video=2)}, scenes), 1024)
    assert fill(rows, 512) >= 0.985
    mixed = {"text": Lengths(RANDOM.randint(30, 401, 20_000), 1000)}
    assert fill(packs(make({"a": stage(4000, 512, 1, text=1)}, mixed), 1024), 512) >= 0.985


def test_long_contexts_are_filled_to_99_5_percent() -> None:
    rows = packs(make({"a": stage(4000, 16384, 1, text=2, image=4, multi_image=1, video=1)}, realistic(RANDOM)), 1024)
    assert fill(rows, 16384) >= 0.995


@pytest.mark.parametrize("unit", ["samples", "tokens"])
def test_the_mixture_counts_what_it_says(unit: str) -> None:
    weights = {"text": 2, "image": 4, "multi_image": 1, "video": 1}
    only = replace(stage(4000, 16384, 1, **weights), mixture_unit=unit)
    for lanes in (1, 4):
        counts: Counter[str] = Counter()
        for pack in packs(make({"a": only}, realistic(RANDOM, 20_000), lanes=lanes), 2048):
            for d in pack.documents:
                counts[d.source] += 1 if unit == "samples" else d.length
        for source, weight in weights.items():
            assert counts[source] / counts.total() == pytest.approx(weight / 8, rel=0.05), (lanes, source)


@pytest.mark.parametrize("unit", ["samples", "tokens"])
def test_a_source_of_which_much_is_left_out_keeps_its_part_of_the_mixture(unit: str) -> None:
    sources = {"text": Lengths(np.full(8000, 100), 1000), "image": Lengths([100, 0, 0, 0] * 4000, 1000)}
    only = replace(stage(4000, 1000, 1, text=1, image=3), mixture_unit=unit)
    counts = Counter(d.source for pack in packs(make({"a": only}, sources), 1000) for d in pack.documents)
    assert counts["image"] / counts.total() == pytest.approx(0.75, rel=0.05)


def test_every_step_has_the_mixture() -> None:
    """Sources of heavy and of light units lie side by side in every bundle, not one after the other."""
    heavy = {"text": Lengths(np.full(40_000, 100), 4000), "video": Lengths(np.full(40_000, 4000), 4000)}
    rows = packs(make({"a": stage(400, 16384, 64, text=1, video=1)}, heavy), 64 * 40)
    share = [sum(d.source == "video" for d in pack.documents) / len(pack.documents) for pack in rows]
    for start in range(0, len(rows), 512):
        clips = sum(d.source == "video" for pack in rows[start : start + 512] for d in pack.documents)
        others = sum(d.source == "text" for pack in rows[start : start + 512] for d in pack.documents)
        assert clips / (clips + others) == pytest.approx(0.5, abs=0.05)
    assert np.mean(share) > 0.2


@pytest.mark.parametrize(("units", "lanes"), [(1, 1), (3, 2), (40, 3), (7, 7)])
def test_slices_of_all_lanes_are_each_epoch_once(units: int, lanes: int) -> None:
    source = Lengths(np.ones(units * 13 - 5), 13)
    stream = Stream("a", source, 0, lanes)
    rounds = 4 * units * SLICES // lanes
    found = [tuple(s) for lane in range(lanes) for s in stream.take(lane, 0, rounds).tolist()]
    assert len(set(found)) == len(found)
    per_epoch = Counter(epoch for epoch, _, _ in found)
    assert per_epoch[0] == stream.samples
    pieces = [stream.take(1 % lanes, a, b) for a, b in ((0, 5), (5, 6), (6, 90))]
    again = stream.take(1 % lanes, 0, 90)
    assert sorted(map(tuple, np.concatenate(pieces).tolist())) == sorted(map(tuple, again.tolist()))


def test_a_changed_length_moves_no_pack_of_another_bundle() -> None:
    """A sample that is damaged when it is read changes nothing at all; one that changes its length, its bundle."""
    before = {"text": Lengths(np.random.RandomState(2).randint(50, 200, 20_000), 20_000)}
    only = {"a": stage(4000, 512, 1, text=1)}
    plan = make(only, before)
    one = packs(plan, 1600)
    found = next(pack for pack in one if pack.index == 600).documents[0]
    lengths = before["text"].lengths.copy()
    lengths[found.sample_index] -= 20
    two = packs(make(only, {"text": Lengths(lengths, 20_000)}), 1600)
    bundles = int(steps(plan, 601)[-1][1].lanes[0, 0, 0])
    assert bundles == 1
    starts = [int(position.lanes[0, 0, 0]) for _, position in steps(plan, 1600)]
    same = {a.documents == b.documents for a, b, bundle in zip(one, two, starts, strict=True) if bundle == 0}
    assert same == {True}
    others = [{pack.documents for pack, bundle in zip(rows, starts, strict=True) if bundle > 1} for rows in (one, two)]
    assert len(others[0] & others[1]) >= 0.98 * len(others[0])


def test_skipped_packs_are_passed_over_and_nothing_else_changes() -> None:
    whole = packs(make(), 300)
    plan = make(skip=[(7, 12), (100, 101)])
    found = steps(plan, 60)
    shown = [pack for spec, _ in found for pack in spec.packs]
    left = [pack for pack in whole if not (7 <= pack.index < 12 or pack.index == 100)]
    number = 20  # the first stage has as many packs as before, so it reaches further
    assert [pack.documents for pack in shown[: number - 5]] == [pack.documents for pack in left[: number - 5]]
    assert [pack.index for pack in shown] == [i for i in range(300) if not (7 <= i < 12 or i == 100)][: len(shown)]
    resumed = steps(make(skip=[(7, 12), (100, 101)]), 30, saved(found[29][1], 1))
    assert [spec for spec, _ in resumed] == [spec for spec, _ in found[30:]]
    assert samples(shown).most_common(1)[0][1] == 1


def test_the_position_of_a_step_can_be_reached_from_any_other() -> None:
    plan = make(lanes=2)
    found = steps(plan, 100)
    for known in (plan.start(), found[20][1], found[80][1]):
        assert plan.at(50, known).to_state() == found[49][1].to_state()


def test_seeds_differ_and_repeat() -> None:
    assert packs(make(seed=1), 50) == packs(make(seed=1), 50)
    assert packs(make(seed=1), 50) != packs(make(seed=2), 50)


def test_the_sequence_is_the_one_of_every_machine_and_version() -> None:
    """A golden value: whoever changes it breaks every checkpoint, and has to raise fingerprint.PLANNER."""
    text = repr(
        [
            (p.index, [(d.source, d.epoch, d.shard_part, d.sample_index) for d in p.documents])
            for p in packs(make(lanes=2), 400)
        ]
    )
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "fb20aace74d77988"


def test_left_out_samples_never_come() -> None:
    lengths = SOURCES["image"].lengths.copy()
    lengths[::3] = 0
    rows = packs(make({"a": stage(1, 512, 1, image=1)}, {"image": Lengths(lengths)}), 300)
    seen = {d.shard_part * 100 + d.sample_index for p in rows for d in p.documents}
    assert seen == set(range(700)) - set(range(0, 700, 3))


@pytest.mark.parametrize(
    ("count", "shown"), [(3, "3 samples"), (0, "0 samples"), (4000, "800 samples .* were looked at")]
)
def test_a_source_without_usable_samples_is_refused(count: int, shown: str) -> None:
    with pytest.raises(PlanError, match=rf"stage 'a'.*none of the {shown}.*512"):
        make({"a": stage(text=1)}, {"text": Lengths(np.zeros(count))})


def test_a_damaged_position_is_refused() -> None:
    state = steps(make(lanes=2), 3)[-1][1].to_state()
    for wrong in ({**state, "lanes": "x"}, {**state, "stages": 2}, {"step": 1}, {**state, "pack": "many"}):
        with pytest.raises(PlanError, match="damaged"):
            Position.from_state(wrong, 2)
    with pytest.raises(PlanError, match="damaged"):
        Position.from_state(state, 3)


def test_one_pass_shows_everything_once() -> None:
    found = [one_pass("sft", STAGES["sft"], SOURCES, lengths_of(SOURCES), r, 3) for r in range(3)]
    assert len({len(s) for s in found}) == 1
    shown = samples([pack for rank in found for spec in rank for pack in spec.packs])
    assert set(shown.values()) == {1}
    assert len(shown) == sum(len(s.lengths) for s in SOURCES.values())


def test_a_report_counts_what_is_planned() -> None:
    """Every sample has 50 tokens and fits twice into a row; one of "long" in four is too long."""
    sources = {"short": Lengths(np.full(300, 50)), "long": Lengths(np.tile([50, 50, 50, 200], 50))}
    of, now = lengths_of(sources), stage(10, 120, 3, short=3, long=1)

    def measures(source: str, shard_part: int, stage: Stage) -> Measures:
        length = of(source, shard_part, stage)
        zero = np.zeros_like(length)
        learnt, pairs = np.where(length, 10, 0), np.where(length, 7, 0)
        return Measures(length=length, supervised=learnt, pairs=pairs, halvings=zero, full=length)

    found = look_at_stage(make({"one": now}, sources), now, measures, most_packs=20)
    assert (found.packs, found.planned) == (30, 18), "whole steps of 3"
    assert (found.fill, found.supervised, found.tokens) == (pytest.approx(100 / 120), 0.2, 3000)
    short, long = found.sources["short"], found.sources["long"]
    assert (short.asked, long.asked) == (0.75, 0.25)
    for source, usable in ((short, 300), (long, 150)):
        assert source.samples == source.tokens == source.supervised
        assert source.epochs == pytest.approx(source.samples * 60 / usable)
    assert short.samples + long.samples == pytest.approx(1)
    assert (short.left_out, short.looked_at, long.left_out, long.looked_at) == (0, 300, 50, 200)
