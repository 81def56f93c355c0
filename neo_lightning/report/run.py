"""Results, curves and facts of a run -> report.json (everything, for programs) and report.html (for people).

The page is a pure function of report.json and the example pictures beside it, so it can be drawn again from an old run.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neo_lightning.data.facts import reason_kind
from neo_lightning.evaluation.context import EvaluationContext
from neo_lightning.evaluation.examples import Example
from neo_lightning.evaluation.words import count, duration, label, listing
from neo_lightning.report.curves import Curves, read_curves
from neo_lightning.report.examples import save_examples
from neo_lightning.report.machine import machine_facts, version_facts
from neo_lightning.report.page import exact_match_results, render
from neo_lightning.types import MODALITIES

FORMAT = 1
"""Version of report.json's layout."""

THROUGHPUT = "tokens_per_s"
CHARTS: tuple[dict[str, Any], ...] = (
    {"title": "Loss", "unit": "nats a token", "share": False, "columns": [f"loss/{name}" for name in MODALITIES]},
    {"title": "Learning rate", "unit": "", "share": False, "columns": ["lr"]},
    {"title": "Throughput", "unit": "tokens a second", "share": False, "columns": [THROUGHPUT]},
    {"title": "Expected share of work (ranks)", "unit": "share of a step", "share": True, "columns": ["balance"]},
    {"title": "Time spent waiting for data", "unit": "share of a step", "share": True, "columns": ["data_wait"]},
    {
        "title": "Goodput",
        "unit": "share of the time in which kept steps trained",
        "share": True,
        "columns": ["goodput"],
    },
    {"title": "Pack fill", "unit": "share of the row that is not padding", "share": True, "columns": ["pack_fill"]},
    {"title": "Gradient norm", "unit": "before clipping", "share": False, "columns": ["grad_norm"]},
)


def write_report(context: EvaluationContext, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Write report.json and report.html into the run's folder and return what report.json holds.

    Args:
        results: each evaluation's name -> what its `run` returned. Its `failures` (list of str) are gathered under the
            report's key `failures`: a caller that has to say whether the run is sound looks there.
    """
    curves = read_curves(context.log_dir)
    report: dict[str, Any] = {
        "format": FORMAT,
        "title": context.title,
        "headline": "",
        "summary": [],
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": context.command,
        "seed": context.seed,
        "machine": machine_facts(context.device),
        "versions": version_facts(),
        "wall_seconds": {name: round(seconds, 2) for name, seconds in context.wall_seconds.items()},
        "model": {"parameters": sum(parameter.numel() for parameter in context.model.parameters())},
        "stages": _stages(context),
        "throughput": _typical(curves, THROUGHPUT),
        "goodput": curves.points("goodput")[-1][1] if curves.points("goodput") else None,
        "starts": _starts(context.run_dir),
        "charts": _charts(curves),
        "curves": {"steps": list(curves.steps), "columns": {name: list(v) for name, v in curves.columns.items()}},
        "skipped": _skipped(context),
        "evaluations": {name: _with_pictures(result, context.run_dir) for name, result in results.items()},
        "goals": [{"evaluation": name, **goal} for name, result in results.items() for goal in result.get("goals", ())],
        "failures": [f"{name}: {text}" for name, result in results.items() for text in result.get("failures", ())],
    }
    report["headline"] = _headline(report)
    report["summary"] = [text for text in (context.summary, _summary(report)) if text]
    report = _plain(report)
    context.run_dir.mkdir(parents=True, exist_ok=True)
    _replace(context.run_dir / "report.json", json.dumps(report, indent=1, allow_nan=False) + "\n")
    _replace(context.run_dir / "report.html", render(report, context.run_dir))
    return report


def _replace(path: Path, text: str) -> None:
    """Write a file so that nobody ever sees half of it."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    """The value as JSON knows it: tuples as lists, paths and unknown objects as text, nan and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _with_pictures(result: Mapping[str, Any], run_dir: Path) -> dict[str, Any]:
    """The result, with each `Example` in it drawn below the run's folder."""
    examples = result.get("examples", ())
    if not any(isinstance(item, Example) for item in examples):
        return dict(result)
    return {**result, "examples": save_examples(examples, run_dir)}


def _stages(context: EvaluationContext) -> list[dict[str, Any]]:
    stages, first = [], 0
    for name, stage in context.stages.items():
        stages.append({"name": name, "first_step": first, **asdict(stage)})
        first += stage.steps
    return stages


def _charts(curves: Curves) -> list[dict[str, Any]]:
    """The charts whose columns were logged, with a name and a colour for each line."""
    charts = []
    for chart in (*CHARTS, *_watched(curves)):
        present = [column for column in chart["columns"] if column in curves.columns]
        several = len(chart["columns"]) > 1
        names = [column.rpartition("/")[2] for column in chart["columns"]] if several else ["single"]
        lines = [
            {
                "column": column,
                "name": label(column.rpartition("/")[2]) if several else "",
                "colour": dict(zip(chart["columns"], chart.get("colours") or names, strict=False))[column],
            }
            for column in present
        ]
        if lines:
            charts.append({"title": chart["title"], "unit": chart["unit"], "share": chart["share"], "lines": lines})
    return charts


def _watched(curves: Curves) -> list[dict[str, Any]]:
    """A chart of the held-out losses and one of each evaluation's scores; of many parts the whole alone."""
    wholes = ["val_loss", *(name for name in curves.columns if name.startswith("eval/") and name.count("/") == 1)]
    charts = []
    for whole in wholes:
        parts = [name for name in curves.columns if name.startswith(f"{whole}/")]
        columns = [whole, *parts] if len(parts) < len(_PARTS) else [whole]
        title, unit, share = ("Held-out loss", "nats a token", False)
        if whole != "val_loss":
            name = whole.partition("/")[2]
            share = all(0 <= y <= 1 for column in columns for _, y in curves.points(column))
            title, unit = f"Evaluation: {label(name)}", "score while training"
        charts.append({"title": title, "unit": unit, "share": share, "columns": columns, "colours": _PARTS})
    return charts


_PARTS = ("single", "multi_image", "video", "text")
"""Colours of a whole and its parts."""


def _typical(curves: Curves, column: str) -> float | None:
    """Median of what was logged: start-up and the last, shorter interval do not move it."""
    values = [value for _, value in curves.points(column)]
    return statistics.median(values) if values else None


def _starts(folder: Path) -> list[float]:
    """Seconds that each start of the run has lived, as far as `starts.json` says."""
    try:
        return [float(seconds) for seconds in json.loads((folder / "starts.json").read_bytes()).values()]
    except (OSError, ValueError, TypeError, AttributeError):  # a run of an earlier version, or a damaged file
        return []


def _skipped(context: EvaluationContext) -> dict[str, Any]:
    reasons = Counter(reason_kind(reason) for _, reason in context.skipped)
    return {
        "total": len(context.skipped),
        "by_reason": dict(reasons.most_common()),
        "first": [{"key": key, "reason": reason} for key, reason in list(context.skipped)[:20]],
    }


def _headline(report: Mapping[str, Any]) -> str:
    """The finding, where there is one; else the run's name."""
    types = [entry for result in exact_match_results(report) for entry in result["types"].values()]
    if not types:
        return str(report["title"])
    return f"{sum(entry['learned'] for entry in types)} of {len(types)} question types learned"


def _summary(report: Mapping[str, Any]) -> str:
    """What happened, in two or three sentences of figures."""
    machine = report["machine"]
    place = listing(machine["accelerators"]) or f"{machine['cores']} cores of {machine['processor']}"
    time = report["wall_seconds"].get("training")
    lives = report["starts"]  # of a start that is killed the phases' seconds know nothing
    together = f"in {len(lives)} starts, which lived {duration(sum(lives))} together, "
    trained = together if len(lives) > 1 else f"for {duration(time)} " if time is not None else ""
    stages = f"in {len(report['stages'])} stages " if len(report["stages"]) > 1 else ""
    text = f"A model of {count(report['model']['parameters'])} parameters, trained {trained}{stages}on {place}."
    if report["goodput"] is not None:
        text += f" Its steps took {report['goodput']:.0%} of the time that it ran (goodput)."
        if len(lives) > 1:
            lost = (1 - report["goodput"]) * sum(lives) / len(lives)
            text += f" Of each start {lost:.1f} s went into anything else."
    for types in (result["types"] for result in exact_match_results(report)):
        if types:
            total = sum(entry["total"] for entry in types.values())
            text += f" It was asked {count(total)} questions that it had never seen, of {len(types)} types."
            for verdict in ("not learned", "partly learned"):
                names = [label(name) for name, entry in types.items() if entry["verdict"] == verdict]
                if names:
                    text += f" {verdict.capitalize()}: {listing(names) if len(names) < 7 else f'{len(names)} types'}."
    return text
