"""What finished runs logged -> one number for each measure, arm and seed, and how arms differ."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from .definition import Expectation, Measure, Sweep
from .statistics import Difference, mean_interval, paired

Points = list[tuple[float, float]]
Spread = list[tuple[float, float, float]]
"""(step, low, high)."""
_POINTS = 60
"""Steps at which a mean curve is given, at most."""


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """One finished run."""

    curves: Mapping[str, Points]
    """Column -> (step, value)."""
    steps: int
    parameters: int
    tokens: float
    flops: float
    seconds: float
    """Of its steps, waiting for data included."""


@dataclass(frozen=True, kw_only=True)
class Reached:
    """A number of a run."""

    value: float
    censored: bool = False
    """Of `reach`: it never did within the run; `value` are the run's steps, and the truth is more."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An expectation beside what came out."""

    expected: Expectation
    said: str
    """`agrees`, `disagrees`, or `open`: the interval holds 0 or has no width, or pairs of runs are missing."""
    difference: Difference | None


def read_run(folder: Path, columns: list[str]) -> RunResult:
    """What a run left in its folder.

    Raises:
        OSError, ValueError, KeyError: its report cannot be read.
    """
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    steps, logged = report["curves"]["steps"], report["curves"]["columns"]

    def points(name: str) -> Points:
        values = logged.get(name, ())
        return [(float(s), float(v)) for s, v in zip(steps, values, strict=False) if v is not None]

    def last(name: str) -> float:
        found = points(name)
        return found[-1][1] if found else 0.0

    return RunResult(
        curves={name: points(name) for name in columns},
        steps=max(steps, default=0),
        parameters=int(report["model"]["parameters"]),
        tokens=last("tokens"),
        flops=last("flops"),
        seconds=float(report["wall_seconds"].get("training") or 0.0),
    )


def measured(run: RunResult, measure: Measure) -> Reached | None:
    """The measure's number of a run; None where its column was never logged."""
    points = run.curves.get(measure.column) or []
    if not points:
        return None
    if measure.take == "last":
        return Reached(value=points[-1][1])
    if measure.take == "area":
        return Reached(value=_area(points))
    assert measure.at is not None
    for step, value in points:
        if value >= measure.at if measure.better == "higher" else value <= measure.at:
            return Reached(value=step)
    return Reached(value=float(run.steps), censored=True)


def _ordered(first: Reached, second: Reached) -> bool:
    """Whether two numbers say which is less: the truth of a censored one is anything above it."""
    if first.censored and second.censored:
        return False
    if first.censored:
        return second.value <= first.value
    return not second.censored or first.value <= second.value


def _area(points: Points) -> float:
    """Mean over the steps between the first and the last, by trapezoids."""
    if len(points) == 1:
        return points[0][1]
    areas = [(b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)]
    return sum(areas) / (points[-1][0] - points[0][0])


def mean_curve(runs: Sequence[Points]) -> tuple[Points, Spread]:
    """Mean of curves at the steps that all of them cover, and its 95% interval where there are several."""
    first, last = max(run[0][0] for run in runs), min(run[-1][0] for run in runs)
    steps = sorted({step for run in runs for step, _ in run if first <= step <= last})
    steps = steps[:: max(1, math.ceil(len(steps) / _POINTS))]
    mean: Points = []
    spread: Spread = []
    for step in steps:
        value, low, high = mean_interval([_at(run, step) for run in runs])
        mean.append((step, value))
        if len(runs) > 1:
            spread.append((step, low, high))
    return mean, spread


def _at(run: Points, step: float) -> float:
    """A curve's value at a step within it, on the straight line between its neighbours."""
    for (x0, y0), (x1, y1) in itertools.pairwise(run):
        if x0 <= step <= x1:
            return y0 + (y1 - y0) * ((step - x0) / (x1 - x0) if x1 > x0 else 0.0)
    return run[-1][1]


class Outcome:
    """The finished runs of a sweep."""

    def __init__(self, sweep: Sweep, runs: Mapping[tuple[str, int], RunResult]) -> None:
        self.sweep, self.runs = sweep, runs

    def numbers(self, arm: str, measure: Measure) -> dict[int, Reached]:
        """Seed -> number, of the runs that have one."""
        found = {seed: measured(self.runs[arm, seed], measure) for seed in self.sweep.seeds if (arm, seed) in self.runs}
        return {seed: number for seed, number in found.items() if number is not None}

    def difference(self, arm: str, other: str, measure: Measure) -> Difference | None:
        """Arm - other over the seeds whose order is known; None where there are none.

        A censored number counts as the steps of its run where the other is no more: the true difference is larger.
        """
        first, second = self.numbers(arm, measure), self.numbers(other, measure)
        seeds = [seed for seed in first if seed in second and _ordered(first[seed], second[seed])]
        return paired([first[s].value for s in seeds], [second[s].value for s in seeds]) if seeds else None

    def verdict(self, expected: Expectation) -> Verdict:
        """Whether an expectation was met: all seeds have a pair, and the interval lies on one side of 0.

        An interval without width is of gains that are all the same: of a number too coarse to tell how far seeds are
        apart, or of too few seeds. It says nothing.
        """
        measure = next(m for m in self.sweep.measures if m.name == expected.measure)
        found = self.difference(expected.better, expected.worse, measure)
        said = "open"
        if found is None or found.pairs < len(self.sweep.seeds):
            return Verdict(expected=expected, said=said, difference=found)
        low, high = found.interval
        if not low <= 0 <= high and not math.isclose(low, high, rel_tol=1e-6):  # equal but for rounding
            said = "agrees" if (found.mean < 0) == measure.lower_is_better else "disagrees"
        return Verdict(expected=expected, said=said, difference=found)

    def curve(self, arm: str, column: str) -> tuple[Points, Spread]:
        """Mean over an arm's runs that logged the column, and its interval; empty where none did."""
        runs = [run.curves[column] for (name, _), run in self.runs.items() if name == arm and run.curves.get(column)]
        return mean_curve(runs) if runs else ([], [])

    def cost(self, arm: str) -> dict[str, float] | None:
        """Means over an arm's runs."""
        runs = [self.runs[arm, seed] for seed in self.sweep.seeds if (arm, seed) in self.runs]
        if not runs:
            return None
        return {
            name: fmean(getattr(run, name) for run in runs) for name in ("parameters", "tokens", "flops", "seconds")
        }


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything that the page shows, for programs."""
    sweep = outcome.sweep
    return {
        "format": 1,
        "name": sweep.name,
        "recipe": sweep.recipe,
        "seeds": list(sweep.seeds),
        "baseline": sweep.baseline,
        "arms": {
            arm: {
                "overrides": dict(sweep.arms[arm]),
                "cost": outcome.cost(arm),
                "measures": {m.name: _of_arm(outcome, arm, m) for m in sweep.measures},
                "curves": {
                    column: dict(zip(("mean", "spread"), outcome.curve(arm, column), strict=True))
                    for column in dict.fromkeys(measure.column for measure in sweep.measures)
                },
            }
            for arm in sweep.arms
        },
        "expected": [
            {**vars(v.expected), "said": v.said, "difference": _difference(v.difference)}
            for v in map(outcome.verdict, sweep.expect)
        ],
    }


def _of_arm(outcome: Outcome, arm: str, measure: Measure) -> dict[str, Any]:
    against = None if arm == outcome.sweep.baseline else outcome.difference(arm, outcome.sweep.baseline, measure)
    return {
        "values": {str(seed): number.value for seed, number in outcome.numbers(arm, measure).items()},
        "censored": [seed for seed, number in outcome.numbers(arm, measure).items() if number.censored],
        "against_baseline": _difference(against),
    }


def _difference(found: Difference | None) -> dict[str, Any] | None:
    if found is None:
        return None
    interval = list(found.interval) if found.pairs > 1 else None  # JSON has no infinity
    return {"mean": found.mean, "interval": interval, "p": found.p, "pairs": found.pairs}
