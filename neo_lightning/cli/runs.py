"""`lightning runs [FOLDER]`: the runs below a folder, the last active first, from small files alone.

    run        stage   step            health   last        age    tokens   loss
    demo-0     sft     800 of 800      whole    done        2 h    4.1M     0.6120
    wide       mid     1200 of 9000    whole    running     4 s    1.2B     1.9034
    old        -       -               damaged  killed      3 d    -        -

Health is that of the newest checkpoint: all its files are there and as long as they say. Their content is read when a
run goes on. What cannot be read in a run's folder is a word in its line, and no other line is the worse for it.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..checkpoint import commit
from ..data.owner import PATIENCE
from .errors import UserError
from .history import checkpoints_of
from .options import Options

MARKS = ("recipe.yaml", "checkpoints", "metrics.csv", "status.json", "run.lock")
"""What makes a folder a run's."""

DEPTH = 4
"""Folders below FOLDER that are looked into."""

_TAIL = 1 << 16
_LARGEST_HEADER = 100 << 20  # safetensors' own limit
_RANK_FILE = re.compile(r"rank-\d{5}-of-(\d{5})\.safetensors")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, kw_only=True)
class RunLine:
    """One run, for people; `-` where nothing is known."""

    name: str
    stage: str
    step: str
    health: str
    last: str
    active: float
    """When something last happened there, seconds since 1970."""
    tokens: str
    loss: str


def main(argv: list[str]) -> int:
    """Print the table."""
    parser = Options(prog="lightning runs", description="List the runs below a folder.")
    parser.add_argument("folder", nargs="?", default="runs", type=Path, help="default: runs")
    folder = parser.parse_args(argv).folder
    if not folder.is_dir():
        raise UserError(f"runs: {folder} is no folder; name the one that runs lie in, `lightning runs FOLDER`")
    lines = sorted((look_at(run, folder) for run in find(folder)), key=lambda line: -line.active)
    if not lines:
        print(f"no runs below {folder}")
        return 0
    _print(lines)
    return 0


def find(folder: Path, depth: int = DEPTH) -> list[Path]:
    """Folders of runs, the folder itself included; nothing below a run is looked at, no link is followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return []
    if any(entry.name in MARKS for entry in entries):
        return [folder]
    below = [e for e in entries if depth and not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
    return [run for entry in below for run in find(Path(entry.path), depth - 1)]


def look_at(run: Path, folder: Path) -> RunLine:
    """What is known of a run."""
    checkpoints = commit.committed(checkpoints_of(run))
    logged, status = last_logged(run / "metrics.csv"), _json(run / "status.json")
    saved = commit.step_of(checkpoints[-1]) if checkpoints else 0
    step = max(saved, _whole(logged.get("step")), _whole(status.get("step")))
    stages = stages_of(run / "recipe.yaml")
    total = sum(steps for _, steps in stages)
    return RunLine(
        name=str(run.relative_to(folder)) if run != folder else run.resolve().name,
        stage=_stage(stages, step),
        step=f"{step:,} of {total:,}" if total else f"{step:,}" if step else "-",
        health=health(checkpoints[-1]) if checkpoints else "no checkpoint",
        last=_last(run, status, saved, total),
        active=max((_touched(path) for path in (run, *(run / mark for mark in MARKS), *checkpoints[-1:])), default=0),
        tokens=_short(_number(logged.get("tokens"))),
        loss="-" if (loss := _number(logged.get("loss"))) is None else f"{loss:.4f}",
    )


def health(checkpoint: Path) -> str:
    """`whole`, or what of a checkpoint is missing or cut short, without reading what it holds."""
    try:
        files = [file for file in checkpoint.iterdir() if _RANK_FILE.fullmatch(file.name)]
        ranks = {int(match[1]) for file in files if (match := _RANK_FILE.fullmatch(file.name))}
        if ranks != {len(files)} or not files:
            return f"damaged: {len(files)} of {max(ranks, default=0)} rank files"
        if not _touched(checkpoint / "meta.pt"):
            return "damaged: no meta.pt"
        cut = [file.name for file in files if file.stat().st_size != _promised(file)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"damaged: {type(error).__name__}"
    return f"damaged: {sorted(cut)[0]}" if cut else "whole"


def _promised(file: Path) -> int:
    """Bytes that a safetensors file has by its own header."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _LARGEST_HEADER:
            return -1
        header = json.loads(stream.read(length))
    return 8 + length + max((entry["data_offsets"][1] for n, entry in header.items() if n != "__metadata__"), default=0)


def stages_of(recipe: Path) -> list[tuple[str, int]]:
    """(name, steps) of a recipe's stages; none where it cannot be read. Only its `stages` are parsed: that is quick."""
    try:
        text = recipe.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"^stages:.*\n(?:[ \t#].*\n|\n)*", text + "\n", re.MULTILINE)
        stages = yaml.load(found[0], _LOADER)["stages"] if found else {}
        return [(str(name), int(stage["steps"])) for name, stage in stages.items()]
    except (OSError, yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def last_logged(file: Path) -> dict[str, str]:
    """The last whole line of a log that has a loss, by column."""
    try:
        with file.open("rb") as stream:
            columns = stream.readline().decode("utf-8", "replace").strip().split(",")
            start = stream.tell()
            stream.seek(max(start, stream.seek(0, os.SEEK_END) - _TAIL))
            lines = stream.read().decode("utf-8", "replace").split("\n")[:-1]
    except OSError:
        return {}
    for line in reversed(lines):
        found = dict(zip(columns, line.rstrip("\r").split(","), strict=False))
        if _number(found.get("loss")) is not None:
            return found
    return {}


def _stage(stages: list[tuple[str, int]], step: int) -> str:
    """The stage that the last step done belongs to."""
    end = 0
    for name, steps in stages:
        end += steps
        if step <= end:
            return name
    return stages[-1][0] if stages else "-"


def _last(run: Path, status: dict[str, Any], saved: int, total: int) -> str:
    """How the last start goes or ended; without a `status.json`, as far as other notes tell."""
    said = str(status.get("outcome") or "")
    if touched := _touched(run / "run.lock"):
        return "running" if time.time() - touched <= PATIENCE else "killed"
    if said and said != "running":
        return said
    if said:
        return "killed"
    if (run / "ended.json").is_file() or (total and saved >= total):
        return "done" if (run / "report.json").is_file() else "trained"
    return "stopped" if saved else "-"


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _touched(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _whole(value: Any) -> int:
    return int(value) if str(value).isdecimal() else 0


def _short(number: float | None) -> str:
    """1,234,567 -> 1.2M."""
    if number is None or not math.isfinite(number):
        return "-"
    unit = next((unit for unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K")) if number >= unit[0]), (1, ""))
    return f"{number / unit[0]:.3g}{unit[1]}"


def _age(seconds: float) -> str:
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def _print(lines: list[RunLine]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from ..console import table_console

    table, now = Table(box=box.SIMPLE, padding=(0, 1, 0, 0)), time.time()
    for column in ("run", "stage", "step", "health", "last", "age", "tokens", "loss"):
        table.add_column(column, justify="right" if column in ("step", "age", "tokens", "loss") else "left")
    for line in lines:
        cells = (line.name, line.stage, line.step, line.health, line.last)
        table.add_row(*map(escape, cells), _age(now - line.active), line.tokens, line.loss)
    table_console().print(table)
