"""The CSV logger's metrics.csv -> one value or None per logged step and column.

A resumed run has several files (version_0, version_1, ...), and a killed run may have logged steps that it repeated
after the restart: later files win.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Curves:
    """What was logged: for each column one value per step, None where the step did not log it."""

    steps: tuple[int, ...]
    columns: Mapping[str, tuple[float | None, ...]]

    def points(self, column: str) -> list[tuple[float, float]]:
        """(step, value) of one column where it was logged; empty for an unknown column."""
        values = self.columns.get(column, ())
        return [(step, value) for step, value in zip(self.steps, values, strict=False) if value is not None]


def read_curves(folder: Path | None) -> Curves:
    """Read every metrics.csv below `folder`; no folder or no file gives empty curves."""
    files = sorted(folder.rglob("metrics.csv"), key=_natural) if folder else []
    rows: dict[int, dict[str, float]] = {}
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        for record in csv.DictReader(text[: text.rfind("\n") + 1].splitlines()):  # a kill may have cut the last line
            step = _number(record.get("step"))
            if step is None:
                continue
            row = rows.setdefault(int(step), {})
            for name, cell in record.items():
                if name not in ("step", "epoch") and (value := _number(cell)) is not None:
                    row[name] = value
    names = sorted({name for row in rows.values() for name in row})
    steps = tuple(sorted(rows))
    return Curves(steps=steps, columns={name: tuple(rows[step].get(name) for step in steps) for name in names})


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def _number(text: object) -> float | None:
    """The finite number that a cell holds; None for empty cells, words and nan."""
    if not isinstance(text, str):
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
