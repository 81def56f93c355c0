"""Packs of equal cost: who takes which row, how rows are filled, which rows make a step; and that all promises stay."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_helpers import Lengths, lengths_of, realistic, stage

from neo_lightning.data.plan import Balance, Plan, PlanError, Position, StepSpec
from neo_lightning.data.plan.bundle import like_steps
from neo_lightning.data.plan.deal import deal, share_of_work
from neo_lightning.data.plan.even import even_rows
from neo_lightning.data.plan.packing import pack_rows
from neo_lightning.data.plan.report import share_of_work as share_of_stage
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import cost_ratio, flops_per_step
from neo_lightning.types import CostRatio, Stage

CLIPS = np.random.RandomState(1)
SOURCES = {
    "text": Lengths(CLIPS.randint(8, 60, 900), 100),
    "image": Lengths(CLIPS.randint(20, 90, 700), 100),
    "video": Lengths(CLIPS.randint(60, 250, 300), 100),
}
STAGES = {
    "text": stage(10, 256, 2, text=1),
    "mid": stage(60, 256, 4, text=2, image=4, video=1),
    "sft": stage(40, 512, 3, image=1, video=1),
}
WAYS: tuple[Balance, ...] = ("none", "slots", "steps")


def make(
    balance: Balance,
    stages: Mapping[str, Stage] = STAGES,
    sources: dict[str, Lengths] | None = None,
    *,
    per_pair: float = 0.02,
    **options: object,
) -> Plan:
    """A plan in which a document costs its tokens and what its pairs do, by default much."""
    of = lengths_of(sources or SOURCES)

    def costs_of(source: str, shard_part: int, now: Stage) -> np.ndarray:
        return (per_pair * of(source, shard_part, now) ** 2 / 2).astype(np.int64)

    return Plan(stages, sources or SOURCES, of, 0, costs_of=costs_of, balance=balance, **options)  # type: ignore[arg-type]


def cost(spec_pack: object) -> int:
    return sum(int(0.02 * d.length**2 / 2) for d in spec_pack.documents)  # type: ignore[attr-defined]


# ---- who takes which row


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=12),
    st.sampled_from([(1, 1), (2, 2), (2, 1), (4, 2), (6, 3), (6, 2)]),
)
def test_each_row_is_dealt_once_and_nobody_waits_longer_than_in_order(few: list[int], ranks: tuple[int, int]) -> None:
    world, lockstep = ranks
    costs = few * world
    dealt = deal(costs, world, lockstep)
    assert sorted(row for rows in dealt for row in rows) == list(range(len(costs)))
    assert {len(rows) for rows in dealt} == {len(costs) // world}
    in_order = [list(range(rank, len(costs), world)) for rank in range(world)]
    if lockstep == world:  # one copy: nothing can be better than neighbours in order of cost
        best = sum(sorted(costs, reverse=True)[::world])
        slowest = sum(max(costs[rows[place]] for rows in dealt) for place in range(len(dealt[0])))
        assert slowest == best
        assert share_of_work(costs, dealt, lockstep) >= share_of_work(costs, in_order, lockstep) - 1e-12


def test_copies_of_the_model_are_evened_out_in_sum() -> None:
    """Four rows on two copies of one rank each: 9 + 1 and 6 + 4, and not 9 + 6."""
    dealt = deal([9, 6, 1, 4], 2, 1)
    assert sorted(map(sorted, dealt)) == [[0, 2], [1, 3]]
    assert share_of_work([9, 6, 1, 4], dealt, 1) == 1
    assert share_of_work([9, 6, 1, 4], [[0, 1], [2, 3]], 1) == pytest.approx(20 / 30)


def test_the_share_of_work_is_mean_over_slowest() -> None:
    """In lockstep each micro-batch takes as long as its dearest row: 4 + 3 of 2 x 7, where 4 + 3 + 2 + 1 is work."""
    assert share_of_work([4, 3, 2, 1], [[0, 2], [3, 1]], 2) == pytest.approx(10 / (2 * (4 + 3)))
    assert share_of_work([4, 3, 2, 1], [[0, 3], [1, 2]], 1) == 1
    assert share_of_work([0, 0], [[0], [1]], 2) == 1


# ---- rows


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.integers(0, 500)), min_size=1, max_size=150))
def test_even_rows_hold_every_document_once_and_never_overflow(documents: list[tuple[int, int]]) -> None:
    lengths, costs = [n for n, _ in documents], [c for _, c in documents]
    rows = even_rows(lengths, costs, 64)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(row and sum(lengths[i] for i in row) <= 64 for row in rows)
    assert len(rows) <= 1.005 * len(pack_rows(lengths, 64))


def test_rows_filled_by_cost_are_alike_and_as_full() -> None:
    """Two fifths of the rows' spread at least go, and no more than half a percent of the fill."""
    context = 16384
    lengths = [int(n) for source in realistic(np.random.RandomState(3), 2500).values() for n in source.lengths]
    lengths = [n for n in lengths if n <= context]
    costs = [n * n // 20_000 for n in lengths]

    def spread(rows: list[list[int]]) -> float:
        found = np.array([sum(costs[i] for i in row) for row in rows])
        return float(found.std() / found.mean())

    by_length, by_cost = pack_rows(lengths, context), even_rows(lengths, costs, context)
    assert spread(by_cost) < 0.6 * spread(by_length)
    assert len(by_cost) <= 1.005 * len(by_length)


# ---- steps


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 7), st.integers(0, 6))
def test_steps_of_a_bundle_are_neighbours_in_cost(count: int, step: int, begun: int) -> None:
    costs = np.random.RandomState(count).permutation(count)
    order = like_steps(costs, step, begun % step, np.random.RandomState(0))
    assert sorted(order) == list(range(count))
    first = min(-begun % step, count)
    whole = [sorted(costs[order[i : i + step]].tolist()) for i in range(first, count - step + 1, step)]
    middle = set(costs[order[:first]].tolist()) | set(costs[order[first + len(whole) * step :]].tolist())
    below, above = min(middle, default=0), count - 1 - max(middle, default=count - 1)
    assert not middle or abs(below - above) <= step, "steps that two bundles share are of middle cost"
    for values in whole:
        assert not [c for c in range(values[0], values[-1]) if c not in values and c not in middle]


def test_steps_come_in_any_order() -> None:
    order = like_steps(np.arange(400), 4, 0, np.random.RandomState(0))
    costs = np.array(order).reshape(-1, 4).mean(1)
    assert abs(np.corrcoef(costs, np.arange(100))[0, 1]) < 0.3, "three deviations of 100 numbers are 0.3"


@pytest.mark.parametrize("balance", ["slots", "steps"])
def test_ranks_wait_less(balance: Balance) -> None:
    one = {"mid": STAGES["mid"]}
    shares = {
        way: share_of_stage(make(way, one), one["mid"], ranks=2, lockstep=None, most_packs=400)
        for way in ("none", balance)
    }
    assert shares[balance] > shares["none"] + (0.08 if balance == "steps" else 0.04)


def test_many_ranks_in_lockstep_work_nearly_all_the_time() -> None:
    """One row a rank: only steps of like cost can help."""
    sources = realistic(np.random.RandomState(0), 20_000)
    now = stage(500, 16384, 64, text=2, image=4, multi_image=1, video=1)
    found = {
        way: share_of_stage(
            make(way, {"a": now}, sources, per_pair=CostRatio().pair), now, ranks=64, lockstep=None, most_packs=1500
        )
        for way in WAYS
    }
    assert found["none"] == pytest.approx(found["slots"], abs=1e-9)
    assert found["steps"] > 0.95 > 0.8 > found["none"]


@pytest.mark.parametrize("balance", WAYS)
def test_what_a_step_reports_is_what_its_rows_cost(balance: Balance) -> None:
    for world, lockstep in ((2, 2), (2, 1), (4, 2)):
        plans = [make(balance) for _ in range(world)]
        shares = [list(islice(p.steps(p.start(), r, world, lockstep), 30)) for r, p in enumerate(plans)]
        for ranks in zip(*shares, strict=True):
            context = STAGES[ranks[0][0].packs[0].stage].context
            table = np.array([[context + cost(pack) for pack in spec.packs] for spec, _ in ranks])
            slowest = table.reshape(-1, lockstep, table.shape[1]).max(1).sum(1).max()
            assert {spec.cost for spec, _ in ranks} == {table.sum()}
            assert ranks[0][0].balance == pytest.approx(table.sum() / world / slowest)


# ---- what stays


def rows_of(spec: StepSpec) -> Counter[tuple[int, str]]:
    return Counter((pack.index, repr(pack.documents)) for pack in spec.packs if pack.index >= 0)


def test_dealing_changes_no_step() -> None:
    for (plain, behind), (dealt, also) in islice(
        zip(make("none").steps(make("none").start()), make("slots").steps(make("slots").start()), strict=False), 80
    ):
        assert rows_of(plain) == rows_of(dealt)
        assert behind.to_state() == also.to_state()


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 25), st.integers(1, 7)), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 300), st.integers(1, 9)), max_size=3),
    st.sampled_from(["slots", "steps"]),
)
def test_any_ranks_and_any_stops_give_one_sequence_of_steps(
    runs: list[tuple[int, int]], holes: list[tuple[int, int]], balance: Balance
) -> None:
    """Each run trains some steps on some ranks and is stopped; each next one starts from the saved position."""
    skip = [(first, first + n) for first, n in holes]
    whole = list(islice(make(balance, skip=skip).steps(make(balance).start()), sum(n for n, _ in runs)))
    position, done = make(balance).start(), 0
    for n, world in runs:
        plan = make(balance, skip=skip)
        position = Position.from_state(json.loads(json.dumps(position.to_state())), 1)
        shares = [list(islice(plan.steps(position, rank, world), n)) for rank in range(world)]
        for at, ranks in enumerate(zip(*shares, strict=True)):
            expected, behind = whole[done + at]
            together: Counter[tuple[int, str]] = Counter()
            for spec, own in ranks:
                together += rows_of(spec)
                assert own.to_state() == behind.to_state()
            assert together == rows_of(expected)
            position = behind
        done += n


def test_steps_of_like_cost_come_all_and_once_also_where_stages_end() -> None:
    plan = make("steps")
    found = [pack for spec, _ in islice(plan.steps(plan.start()), 400) for pack in spec.packs]
    seen = Counter((d.source, d.epoch, d.shard_part, d.sample_index) for pack in found for d in pack.documents)
    assert max(seen.values()) == 1, "twice in one epoch"
    for source, held in SOURCES.items():
        usable = int((held.lengths <= 256).sum())
        first = sum(1 for name, epoch, _, _ in seen if name == source and epoch == 0)
        assert first == usable if source != "text" else first > 0.5 * usable, f"{source}: an epoch is complete"


def test_steps_stay_alike_across_bundles_and_skipped_packs() -> None:
    """Bundles have no whole number of steps: without the packs that a step had already, all steps would be mixed."""
    one = {"mid": stage(4000, 256, 5, text=2, image=4, video=1)}
    plan = make("steps", one)
    late = [spec for spec, _ in islice(plan.steps(plan.start(), 0, 5), 250)][100:]
    assert np.mean([spec.balance for spec in late]) > 0.97
    holed = make("steps", one, skip=[(31, 34)])
    after = [spec for spec, _ in islice(holed.steps(holed.start(), 0, 5), 250)][100:]
    assert np.mean([spec.balance for spec in after]) > 0.97, "the next bundle is in step again"


def test_a_position_of_an_earlier_version_is_read() -> None:
    plan = make("none", lanes=2)
    position = list(islice(plan.steps(plan.start()), 90))[-1][1]
    old = Position(position.step, position.pack, position.lanes[:, :2]).to_state()
    del old["numbers"]
    assert Position.from_state(old, 2).to_state() == position.to_state()


def test_several_lanes_have_no_steps_of_like_cost() -> None:
    with pytest.raises(PlanError, match=r"data.balance: .* one lane, data.lanes is 2"):
        make("steps", lanes=2)


# ---- what documents cost


def test_the_usual_ratio_is_the_one_of_the_2b() -> None:
    found = cost_ratio(NeoConfig())
    assert found.pair == pytest.approx(CostRatio().pair, rel=0.01)
    assert found.supervised == pytest.approx(CostRatio().supervised, rel=0.02)


def test_a_ratio_gives_the_operations_of_a_row() -> None:
    """A row's cost in tokens' worth times the operations of a token, against the formula itself."""
    config = NeoConfig()
    ratio = cost_ratio(config, lambda name: "layers.3." in name)
    counts = {"tokens": 1000, "pairs": 77_000, "supervised": 200}
    whole = flops_per_step(config, patches=0, **counts, trained=lambda name: "layers.3." in name)
    token = flops_per_step(config, tokens=1, patches=0, pairs=0, supervised=0, trained=lambda name: "layers.3." in name)
    assert (1000 + ratio.pair * 77_000 + ratio.supervised * 200) * token == pytest.approx(whole)
