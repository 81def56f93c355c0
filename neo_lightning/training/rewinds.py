"""Going back in a run: which checkpoint it goes on from, and which packs it passes over from then on.

    RUN/rewinds.jsonl     {"to": 40, "skip": [330, 354], "aside": ["step-00000048"], "why": "...", "time": "..."}
                          {"done": 0}

A line is durable before anything else happens; checkpoints behind the place that was gone back to are then renamed
(`rewound-0-step-00000048`), and a second line says so. A kill between the two is made good at the next start
(`settle`). What is skipped is a function of this list and `data.skip` alone, so any restart sees the same packs.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neo_lightning.checkpoint import commit
from neo_lightning.data.files import replacing

FILE = "rewinds.jsonl"


class Rewound(Exception):
    """The run goes back; raised on all ranks alike."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__(f"the run goes back to {checkpoint}")
        self.checkpoint = checkpoint


@dataclass(frozen=True, kw_only=True)
class Rewind:
    """One line of the list."""

    to: int
    """Steps done at the checkpoint that was gone back to."""
    skip: tuple[int, int] | None
    """Packs [first, last) that are passed over."""
    aside: tuple[str, ...]
    """Names of the checkpoints that were later."""
    why: str
    time: str


def read(folder: Path) -> list[Rewind]:
    """The rewinds of a run.

    Raises:
        ValueError: the list is damaged, naming file and line.
    """
    found = []
    for number, entry in enumerate(_entries(folder / FILE), start=1):
        if "done" in entry:
            continue
        try:
            skip = entry["skip"] and (int(entry["skip"][0]), int(entry["skip"][1]))
            aside = tuple(map(str, entry["aside"]))
            known = {"why": str(entry["why"]), "time": str(entry["time"])}
            found.append(Rewind(to=int(entry["to"]), skip=skip, aside=aside, **known))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ValueError(f"{folder / FILE}, line {number}: not what a rewind writes there ({error})") from error
    return found


def skips(folder: Path) -> list[tuple[int, int]]:
    """Ranges [first, last) of packs that a run's rewinds pass over."""
    return [rewind.skip for rewind in read(folder) if rewind.skip is not None]


def front(checkpoints: Path, step: int) -> Path | None:
    """The newest committed checkpoint with at most `step` steps done."""
    return next((path for path in reversed(commit.committed(checkpoints)) if commit.step_of(path) <= step), None)


def go_back(folder: Path, checkpoints: Path, to: Path, *, skip: tuple[int, int] | None, why: str) -> None:
    """List a rewind and set later checkpoints aside. One process only, and no save in progress."""
    there = commit.committed(checkpoints)
    aside = tuple(path.name for path in there[there.index(to) + 1 :])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    _append(folder / FILE, asdict(Rewind(to=commit.step_of(to), skip=skip, aside=aside, why=why, time=now)))
    settle(folder, checkpoints)


def settle(folder: Path, checkpoints: Path) -> None:
    """Set aside what a rewind lists, where a kill came between. One process only, before checkpoints are looked for."""
    done = {int(entry["done"]) for entry in _entries(folder / FILE) if "done" in entry}
    for number, rewind in enumerate(read(folder)):
        if number in done:
            continue
        for name in rewind.aside:
            if (checkpoints / name).exists():
                os.replace(checkpoints / name, checkpoints / f"rewound-{number}-{name}")
        if checkpoints.exists():
            commit.sync(checkpoints)
        _append(folder / FILE, {"done": number})


def fit(trainer: Any, **arguments: Any) -> None:
    """`trainer.fit`, which goes on from where a callback went back to."""
    while True:
        try:
            trainer.fit(**arguments)
            return
        except Rewound as back:
            arguments["ckpt_path"] = back.checkpoint


def _whole_lines(file: Path) -> str:
    """A line that a kill has cut short was never written."""
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    return text[: text.rfind("\n") + 1]


def _entries(file: Path) -> Sequence[dict[str, Any]]:
    entries = []
    for number, line in enumerate(_whole_lines(file).splitlines(), start=1):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number}: damaged ({error}); packs to skip are listed there") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{file}, line {number}: damaged (no object); packs to skip are listed there")
        entries.append(entry)
    return entries


def _append(file: Path, entry: dict[str, Any]) -> None:
    """Durably."""
    with replacing(file) as copy:
        copy.write_text(_whole_lines(file) + json.dumps(entry) + "\n", encoding="utf-8")
        commit.sync(copy)
    commit.sync(file.parent)
