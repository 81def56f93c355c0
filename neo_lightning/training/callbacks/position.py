"""Keeps the data's position with the steps done, and a list of every sample that was left out, with its reason.

In: finished steps and their `PackInfo`s. Out: `datamodule.next_step`, which Lightning stores in each checkpoint, and
`skipped.jsonl` in the run's folder: one JSON object per line with `step`, `sample`, `reason`. Samples that were dropped
when the data was indexed or planned have `step` null; they are listed as the plan comes to them. The position is set
here and not by a loader, because loaders prefetch.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from rich.markup import escape
from rich.table import Table

from neo_lightning.console import table_console
from neo_lightning.data.facts import reason_kind
from neo_lightning.data.files import append_whole, replacing
from neo_lightning.data.skipped import KEPT, Skipped
from neo_lightning.training.best_effort import BestEffort
from neo_lightning.training.rewinds import skips
from neo_lightning.types import PackedBatch


class DataPosition(Callback):
    """Sets the position before a checkpoint is written; lists and sums up what was left out."""

    def __init__(self, file: str = "skipped.jsonl") -> None:
        """Args: `file`, below the trainer's default_root_dir; ranks other than 0 add their number to the name."""
        self.file = file
        self.reasons: Counter[str] = Counter()
        """Kind of reason -> samples left out, on this rank, in this process."""
        self._path: Path | None = None
        self._waiting: list[dict[str, Any]] = []  # entries that are not in the file yet
        self._afresh = False  # they are all that the file shall hold
        self._effort = BestEffort(file)
        self._known: set[int] = set()  # hashes of (sample, reason) of entries without a step

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Pass over what the run's rewinds skip."""
        if stage == "fit" and (pairs := skips(Path(trainer.default_root_dir))):
            trainer.datamodule.skip_packs(pairs)  # type: ignore[attr-defined]

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Nothing is listed of a start that another callback may still refuse."""
        self._path = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Open the list in front of the first step: entries of steps that are about to be repeated go."""
        if self._path is not None:
            return
        stem, suffix = os.path.splitext(self.file)
        rank = f".rank{trainer.global_rank}" if trainer.global_rank else ""
        self._path = Path(trainer.default_root_dir) / f"{stem}{rank}{suffix}"
        self._effort = BestEffort(str(self._path))
        entries = _entries(self._path, trainer.global_step)
        self._known = {hash((str(e.get("sample")), str(e.get("reason")))) for e in entries if e.get("step") is None}
        entries += self._newly_left_out(trainer)
        self.reasons = Counter(reason_kind(str(entry["reason"])) for entry in entries)
        self._waiting, self._afresh = entries, True
        self._write()
        if trainer.is_global_zero:
            with self._effort.attempt():
                self._shorten_lists_of_other_starts(trainer)

    def _write(self) -> None:
        """Entries that wait, all or none: where the disk is full they wait on, and of many the oldest are dropped."""
        assert self._path is not None
        with self._effort.attempt():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._afresh:
                _write(self._path, self._waiting)
            else:
                append_whole(self._path, "".join(map(_line, self._waiting)))
            self._waiting, self._afresh = [], False
        if spare := max(0, len(self._waiting) - KEPT):
            self._waiting = self._waiting[spare:]
            self._effort.dropped += spare

    def _shorten_lists_of_other_starts(self, trainer: Trainer) -> None:
        """Ranks that an earlier start had and this one has not: their steps to come are repeated by others."""
        assert self._path is not None
        for path in self._path.parent.glob(f"{self._path.stem}.rank*{self._path.suffix}"):
            rank = path.stem.rpartition(".rank")[2]
            if rank.isdigit() and int(rank) >= trainer.world_size:
                _write(path, _entries(path, trainer.global_step))

    def _newly_left_out(self, trainer: Trainer) -> list[dict[str, Any]]:
        """Entries for what the data module left out since the last look."""
        skipped: Skipped | None = getattr(trainer.datamodule, "skipped", None)  # type: ignore[attr-defined]
        found = dict.fromkeys(skipped.take() if skipped is not None else ())
        new = [pair for pair in found if hash(pair) not in self._known]
        self._known.update(map(hash, new))
        return [{"step": None, "sample": sample, "reason": reason} for sample, reason in new]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the position and this step's tombstones."""
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if datamodule is not None:
            again = trainer.overfit_batches  # type: ignore[attr-defined]
            datamodule.next_step = trainer.global_step % int(again) if again else trainer.global_step
        found: list[dict[str, Any]] = [
            {"step": trainer.global_step - 1, "sample": sample, "reason": reason}
            for micro_batch in batch
            if isinstance(micro_batch, PackedBatch) and micro_batch.info is not None
            for sample, reason in micro_batch.info.tombstones
        ]
        if entries := found + self._newly_left_out(trainer):
            self.reasons.update(reason_kind(entry["reason"]) for entry in entries)
            self._waiting += entries
        if self._waiting or self._afresh:
            self._write()
        if found:
            rank_zero_warn(f"{len(found)} sample(s) proved bad and took no part: see {self._path}")

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Show how many samples were left out, by reason."""
        self._effort.end(len(self._waiting))
        if not self.reasons or trainer.global_rank:
            return
        table = Table(title=f"Samples left out (listed in {escape(str(self._path))})", title_justify="left")
        table.add_column("reason")
        table.add_column("samples", justify="right")
        for reason, samples in self.reasons.most_common():
            table.add_row(escape(reason), f"{samples:,}")
        table_console().print(table)


def _entries(path: Path, step: int) -> list[dict[str, Any]]:
    """A list's entries of the steps before `step`."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [e for e in map(_parse, lines) if "sample" in e and "reason" in e and (e.get("step") or 0) < step]


def _write(path: Path, entries: list[dict[str, Any]]) -> None:
    with replacing(path) as copy:
        copy.write_text("".join(map(_line, entries)), encoding="utf-8")


def _parse(line: str) -> dict[str, Any]:
    """A line of the list; a line that a kill cut short counts as absent."""
    try:
        entry = json.loads(line)
    except json.JSONDecodeError:
        return {}
    return entry if isinstance(entry, dict) else {}


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry) + "\n"
