from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from neo_lightning.data.plan import PackSpec, PlanError, iterate_packs, iterate_steps, one_pass
from neo_lightning.types import Stage

RANDOM = np.random.RandomState(0)
LENGTHS = {
    "text": RANDOM.randint(8, 60, 500).astype(np.int32),
    "image": RANDOM.randint(20, 90, 700).astype(np.int32),
    "video": RANDOM.randint(60, 200, 150).astype(np.int32),
}


def stage(steps: int = 40, context: int = 512, packs: int = 4, **mixture: float) -> Stage:
    return Stage(steps=steps, context=context, packs_per_step=packs, mixture=mixture or {"text": 1}, lr=1e-3)


STAGES = {
    "text": stage(10, 256, 2, text=1),
    "mid": stage(60, 512, 4, text=2, image=4, video=1),
    "sft": stage(40, 1024, 3, image=1, video=1),
}


def lengths_of(source: str, stage: Stage) -> np.ndarray:
    return LENGTHS[source]


def packs(n: int, stages: dict[str, Stage] | None = None, seed: int = 0) -> list[PackSpec]:
    return list(islice(iterate_packs(stages or STAGES, lengths_of, seed), n))


def test_rows_never_overflow_and_carry_their_stage() -> None:
    total = 20 + 240 + 200
    for number, pack in enumerate(packs(total)):
        name = "text" if number < 20 else "mid" if number < 260 else "sft"
        assert (pack.index, pack.stage) == (number, name)
        assert 0 < sum(d.length for d in pack.documents) <= STAGES[name].context
        assert all(d.length == LENGTHS[d.source][d.index] for d in pack.documents)


def test_small_samples_fill_rows_to_98_percent() -> None:
    for name, context in (("text", 256), ("mid", 512)):
        rows = [p for p in packs(260) if p.stage == name]
        fill = np.mean([sum(d.length for d in p.documents) / context for p in rows])
        assert fill >= 0.98, (name, fill)


def test_a_few_repeating_lengths_fill_rows_as_well() -> None:
    # lengths as drawn scenes have them: best-fit decreasing alone reaches 95%
    random = np.random.RandomState(0)
    drawn = {
        "text": random.choice([76, 81, 86, 91, 111, 162], 2000).astype(np.int32),
        "image": random.choice([33, 59, 80, 83, 86], 2000).astype(np.int32),
        "multi_image": random.choice([126, 139, 153, 162, 171], 1500).astype(np.int32),
        "video": random.choice([233, 259, 285, 289], 500).astype(np.int32),
    }
    stages = {"a": stage(1, 512, 1, text=2, image=4, multi_image=3, video=2)}
    rows = list(islice(iterate_packs(stages, lambda s, st: drawn[s], 0), 600))
    assert np.mean([sum(d.length for d in p.documents) / 512 for p in rows]) >= 0.99


def test_samples_that_fit_badly_neither_starve_nor_pile_up() -> None:
    awkward = {"odd": np.array([300] * 40 + [200] * 40, dtype=np.int32)}
    stages = {"a": stage(1, 400, 1, odd=1)}
    rows = list(islice(iterate_packs(stages, lambda s, st: awkward[s], 0), 400))
    counts = Counter(d.index for p in rows for d in p.documents)
    assert len(counts) == 80
    assert max(counts.values()) - min(counts.values()) <= 3


MANY = np.random.RandomState(1).randint(20, 90, 5000).astype(np.int32)


@pytest.mark.parametrize(
    "stages",
    [
        {"a": stage(1, 512, 1, image=1)},
        # switches in the middle of a bundle: what was drawn and not packed has to come first afterwards
        {f"s{i}": stage(3, 300 + 100 * (i % 3), 3 + i % 2, image=1) for i in range(30)},
    ],
    ids=["one stage", "many switches"],
)
def test_no_sample_is_lost_or_repeated_inside_an_epoch(stages: dict[str, Stage]) -> None:
    order = [d.index for p in islice(iterate_packs(stages, lambda s, st: MANY, 3), 1500) for d in p.documents]
    bundle = 64 * 512 // 50
    first = Counter(order[: 5000 - 2 * bundle])
    assert max(first.values()) == 1, "a second time before the first pass was over"
    assert len(set(order[: 5000 + 4 * bundle])) == 5000, "lost"
    counts = Counter(order)
    assert max(counts.values()) - min(counts.values()) <= 2


def test_the_mixture_counts_samples() -> None:
    rows = packs(2000, {"a": stage(1, 512, 4, text=2, image=4, video=1)})
    counts = Counter(d.source for p in rows for d in p.documents)
    total = sum(counts.values())
    for source, weight in (("text", 2), ("image", 4), ("video", 1)):
        assert counts[source] / total == pytest.approx(weight / 7, rel=0.02)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_any_number_of_ranks_and_any_resume_give_the_same_packs(world: int) -> None:
    whole = packs(20 + 240 + 60)
    for first in (0, 7, 10, 33, 70):
        ranks = [
            list(islice(iterate_steps(STAGES, lengths_of, 0, first_step=first, rank=r, world=world), 10))
            for r in range(world)
        ]
        for steps in zip(*ranks, strict=True):
            assert len({s.step for s in steps}) == 1
            assert len({len(s.packs) for s in steps}) == 1, "every rank has as many rows"
            count = STAGES[steps[0].packs[0].stage].packs_per_step
            dealt = [steps[i % world].packs[i // world] for i in range(len(steps[0].packs) * world)]
            start = dealt[0].index
            assert dealt[:count] == whole[start : start + count]
            assert all(p.index == -1 and not p.documents for p in dealt[count:])


def test_seeds_differ_and_repeat() -> None:
    assert packs(50, seed=1) == packs(50, seed=1)
    assert packs(50, seed=1) != packs(50, seed=2)


def test_left_out_samples_never_come() -> None:
    lengths = LENGTHS["image"].copy()
    lengths[::3] = 0
    rows = islice(iterate_packs({"a": stage(1, 512, 1, image=1)}, lambda s, st: lengths, 0), 300)
    seen = {d.index for p in rows for d in p.documents}
    assert seen == set(range(700)) - set(range(0, 700, 3))


def test_a_source_without_usable_samples_is_refused() -> None:
    with pytest.raises(PlanError, match=r"stage 'a'.*none of the 3 samples.*512"):
        next(iterate_packs({"a": stage(text=1)}, lambda s, st: np.zeros(3, np.int32), 0))


def test_one_pass_shows_everything_once() -> None:
    steps = [one_pass("sft", STAGES["sft"], LENGTHS, r, 3) for r in range(3)]
    assert len({len(s) for s in steps}) == 1
    shown = Counter((d.source, d.index) for rank in steps for s in rank for p in s.packs for d in p.documents)
    assert set(shown.values()) == {1}
    assert len(shown) == sum(map(len, LENGTHS.values()))
