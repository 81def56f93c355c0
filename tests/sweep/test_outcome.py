"""From what runs logged to what a sweep says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.report.sweep import mean_of, render, seeds_of
from neo_lightning.sweep.definition import Measure, Sweep, read_sweep
from neo_lightning.sweep.outcome import Outcome, Reached, RunResult, as_json, mean_curve, measured, read_run

SWEEP = """
recipe: demo
folder: {folder}
seeds: [0, 1, 2, 3, 4, 5]
common: {{stages.sft.steps: 200}}
arms:
  slow: {{}}
  '2d': {{stages.sft.lr: 8.0e-4}}
  <b>: {{}}
measures:
  - {{name: loss, column: val_loss, take: area, better: lower}}
  - {{name: steps to 90%, column: eval/scenes, take: reach, at: 0.9}}
expect:
  - {{measure: loss, better: 2d, worse: slow, because: it is far from done}}
"""


def sweep_of(tmp_path: Path, text: str = SWEEP) -> Sweep:
    file = tmp_path / "rates.yaml"
    file.write_text(text.format(folder=tmp_path / "runs").replace("  <b>: {}\n", ""))
    return read_sweep(file)


def run(**columns: list[float]) -> RunResult:
    curves = {name: [(10.0 * i, value) for i, value in enumerate(values)] for name, values in columns.items()}
    return RunResult(curves=curves, steps=40, parameters=1000, tokens=2e6, flops=3e15, seconds=65.0)


def test_measures_of_a_curve() -> None:
    one = RunResult(
        curves={"a": [(0, 4.0), (10, 2.0), (40, 2.0)], "b": [(5, 1.0)]},
        steps=40,
        parameters=1,
        tokens=0,
        flops=0,
        seconds=0,
    )
    assert measured(one, Measure(name="m", column="a")) == Reached(value=2.0)
    assert measured(one, Measure(name="m", column="a", take="area")) == Reached(value=(10 * 3 + 30 * 2) / 40)
    assert measured(one, Measure(name="m", column="b", take="area")) == Reached(value=1.0)
    assert measured(one, Measure(name="m", column="a", take="reach", at=2.0, better="lower")) == Reached(value=10)
    never = measured(one, Measure(name="m", column="a", take="reach", at=5.0, better="higher"))
    assert never == Reached(value=40, censored=True)
    assert measured(one, Measure(name="m", column="c")) is None


def test_an_expectation_is_met_missed_or_open(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    (expected,) = sweep.expect

    def said(gains: list[float]) -> str:
        runs = {}
        for seed, gain in enumerate(gains):
            runs["slow", seed] = run(val_loss=[4.0 + seed, 4.0 + seed])
            runs["2d", seed] = run(val_loss=[4.0 + seed - gain] * 2)
        return Outcome(replace(sweep, seeds=(0, 1, 2)), runs).verdict(expected).said

    assert said([0.5, 0.6, 0.4]) == "agrees", "seeds differ by far more than arms do"
    assert said([-0.5, -0.6, -0.4]) == "disagrees"
    assert said([0.5, -0.6, 0.4]) == "open"
    assert said([0.5, 0.501]) == "open", "a run is missing, and why is not known"
    assert said([0.3, 0.3, 0.3]) == "open", "equal gains, but for rounding, do not tell how far seeds are apart"
    assert said([0.5]) == "open", "one pair says nothing"
    assert said([]) == "open"


def test_only_seeds_that_both_arms_have_are_compared(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path)
    runs = {("slow", 0): run(val_loss=[4.0]), ("slow", 1): run(val_loss=[9.0]), ("2d", 1): run(val_loss=[8.0])}
    found = Outcome(sweep, runs).difference("2d", "slow", sweep.measures[0])
    assert found is not None
    assert (found.mean, found.pairs) == (-1.0, 1)


def test_what_was_never_reached_is_compared_only_where_the_order_is_known(tmp_path: Path) -> None:
    """Runs of 40 steps that never reach 0.9 are neither faster nor slower than one that does after 50."""
    text = SWEEP.replace("measure: loss, better: 2d, worse: slow", "measure: steps to 90%, better: 2d, worse: slow")
    sweep = replace(sweep_of(tmp_path, text), seeds=(0, 1, 2))
    reach = sweep.measures[1]

    def outcome(steps: list[int]) -> Outcome:
        never, runs = run(**{"eval/scenes": [0.1, 0.2]}), {}
        for seed, step in enumerate(steps):
            runs["2d", seed] = never
            runs["slow", seed] = replace(never, curves={"eval/scenes": [(step, 0.9)]}, steps=80) if step else never
        return Outcome(sweep, runs)

    late = outcome([50, 52, 51])
    assert late.difference("2d", "slow", reach) is None
    assert late.difference("slow", "2d", reach) is None
    assert late.verdict(sweep.expect[0]).said == "open"
    early = outcome([20, 40, 30])
    found = early.difference("2d", "slow", reach)
    assert found is not None
    assert (found.mean, found.pairs) == (10, 3), "40 steps are the least that it takes"
    some = outcome([20, 0, 50])
    found = some.difference("slow", "2d", reach)
    assert found is not None
    assert (found.mean, found.pairs) == (-20, 1)
    assert seeds_of(some, "2d", reach) == "3 of 3, 1 compared"
    assert some.verdict(sweep.expect[0]).said == "open"


def test_the_json_and_the_page_have_everything_and_escape_it(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, SWEEP.replace("it is far from done", "<script>alert(1)</script>"))
    runs = {
        (arm, seed): run(val_loss=[4.0, 3.0 - (arm == "2d"), 2.0], **{"eval/scenes": [0.0, 0.95 * (arm == "2d"), 0.5]})
        for arm in sweep.arms
        for seed in (0, 1, 2)
    }
    outcome = Outcome(sweep, runs)
    tree: dict[str, Any] = json.loads(json.dumps(as_json(outcome), allow_nan=False))
    slow = tree["arms"]["slow"]["measures"]["steps to 90%"]
    assert (slow["values"]["0"], slow["censored"]) == (40.0, [0, 1, 2])
    assert tree["arms"]["2d"]["measures"]["steps to 90%"]["against_baseline"]["mean"] == -30.0
    assert tree["expected"][0]["said"] == "open", "half of the runs are missing"
    assert tree["expected"][0]["difference"]["pairs"] == 3
    curve = tree["arms"]["2d"]["curves"]["val_loss"]
    assert [value for _, value in curve["mean"]] == [4.0, 2.0, 2.0]
    assert curve["spread"] == [[step, value, value] for step, value in curve["mean"]], "three equal runs"
    assert mean_of(outcome, "slow", sweep.measures[1]) == "> 40"
    page = render(outcome)
    assert "<script>alert" not in page
    assert "9 of" not in page
    assert "6 of 12 runs" in page
    assert page.count('<td class="num">3 of 6</td>') == 5, "a row of the expectation, two of each measure"
    assert page.count('class="seed censored"') == 3
    assert "2d better than slow" in page


def test_curves_are_averaged_where_all_have_values() -> None:
    mean, spread = mean_curve([[(0, 0.0), (10, 10.0)], [(5, 1.0), (20, 1.0)]])
    assert mean == [(5, 3.0), (10, 5.5)]
    assert [step for step, _, _ in spread] == [5, 10]
    assert mean_curve([[(0, 1.0)]]) == ([(0, 1.0)], [])


def test_a_run_is_read_from_its_report(tmp_path: Path) -> None:
    report = {
        "model": {"parameters": 12},
        "wall_seconds": {"training": 3.5},
        "curves": {"steps": [1, 2], "columns": {"loss": [2.0, None], "tokens": [5, 9], "flops": [None, 7.0]}},
    }
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert read_run(tmp_path, ["loss", "none"]) == RunResult(
        curves={"loss": [(1.0, 2.0)], "none": []}, steps=2, parameters=12, tokens=9, flops=7.0, seconds=3.5
    )
    with pytest.raises(OSError, match="report"):
        read_run(tmp_path / "gone", [])
