"""Two models' scores side by side: the difference, question by question where both answered the same data, and what
differs in the settings.

The other side is a `scores.json` of an earlier evaluation, or a model of the papers' tables (`published.json`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .benchmarks import BENCHMARKS
from .metrics import paired_difference
from .running.answers import differences, read_log
from .running.score import GRADED
from .running.settings import published_settings

SCORES = "scores.json"
_COMPARED = ("metric", "prompt", "system", "image", "video", "frames", "enlarge", "only", "decoding", "seed", "data")


@dataclass(frozen=True, kw_only=True)
class Other:
    """The other side of a comparison."""

    name: str
    source: str
    """Where its figures come from."""
    benchmarks: Mapping[str, Mapping[str, Any]]
    """Name -> `score` (0-1), and of an evaluation the whole result."""
    folder: Path | None = None
    """Of an evaluation, with a folder for each benchmark."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One benchmark of both."""

    name: str
    ours: float
    theirs: float
    paired: tuple[float, float, float] | None = None
    """Mean of our grade - their grade over questions that both answered, and its 95% interval."""
    questions: int = 0
    """So many."""
    differs: list[str] = field(default_factory=list)
    """Settings that differ: theirs -> ours."""

    @property
    def difference(self) -> float:
        """Ours - theirs."""
        return self.ours - self.theirs


@cache
def published() -> dict[str, Any]:
    """The papers' tables."""
    return dict(json.loads((files(__package__) / "published.json").read_text(encoding="utf-8")))


def find_other(name: str) -> Other:
    """A model of the papers' tables, or an evaluation: its scores.json or the folder of it.

    Raises:
        ValueError: neither.
    """
    models = published()["models"]
    if name in models:
        scores = {benchmark: {"score": percent / 100} for benchmark, percent in models[name]["scores"].items()}
        return Other(name=models[name]["title"], source=published()["source"], benchmarks=scores)
    file = Path(name)
    file = file / SCORES if file.is_dir() else file
    try:
        tree = json.loads(file.read_text(encoding="utf-8"))
        found = {str(key): dict(value) for key, value in tree["benchmarks"].items()}
        title = str(tree["name"])
    except FileNotFoundError as error:
        raise ValueError(f"{name}: no such scores.json, and the papers' tables have {', '.join(models)}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: not the scores of an evaluation: {error}") from error
    return Other(name=title, source=str(file), benchmarks=found, folder=file.parent)


def compare(scores: Mapping[str, Any], folder: Path, other: Other) -> list[Compared]:
    """Benchmarks that both sides have, in our order."""
    found = []
    for name, result in scores["benchmarks"].items():
        theirs = other.benchmarks.get(name)
        if theirs is None or result["score"] is None or theirs.get("score") is None:
            continue
        paired, questions = (
            _paired(folder / name, other.folder / name) if other.folder and _same(result, theirs) else (None, 0)
        )
        found.append(
            Compared(
                name=name,
                ours=result["score"],
                theirs=theirs["score"],
                paired=paired,
                questions=questions,
                differs=_differing(name, result, theirs),
            )
        )
    return found


def _same(result: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether both are grades of the same data by the same metric."""
    mine, others = result["settings"], theirs.get("settings", {})
    return mine["data"]["sha256"] == others.get("data", {}).get("sha256") and mine["metric"] == others.get("metric")


def _paired(mine: Path, theirs: Path) -> tuple[tuple[float, float, float] | None, int]:
    if not (theirs / GRADED).is_file():
        return None, 0
    first, second = read_log([theirs / GRADED]), read_log([mine / GRADED])
    both = [key for key in second if key in first]
    if not both:
        return None, 0
    return paired_difference([first[key]["grade"] for key in both], [second[key]["grade"] for key in both]), len(both)


def _differing(name: str, result: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    mine = {key: result["settings"].get(key) for key in _COMPARED}
    if "settings" in theirs:
        lines = differences({key: theirs["settings"].get(key) for key in _COMPARED}, mine)
        if result["limit"] != theirs.get("limit"):
            lines.append(f"rows: {theirs.get('rows')} -> {result['rows']}")
        return lines
    if name not in BENCHMARKS:
        return ["their settings are not known"]
    # a budget that the benchmark leaves to the model's folder has no effect on it: pictures alone, or clips alone
    said = {key: value for key, value in published_settings(BENCHMARKS[name]).items() if value is not None}
    lines = differences(
        {key: said[key] for key in _COMPARED if key in said}, {key: mine[key] for key in _COMPARED if key in said}
    )
    if result["limit"] is not None:
        lines.append(f"rows: all -> the first {result['rows']}")
    if result["unread"]["total"]:
        lines.append(f"rows not in the score: {result['unread']['total']} of {result['rows']}")
    return [*lines, f"theirs: {BENCHMARKS[name].source}"]
