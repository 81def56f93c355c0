"""A CSV log that survives being killed and continued.

In: metrics and steps. Out: `metrics.csv` with one line per logged step, columns in order of appearance, floats exact.
Lightning's own CSV logger deletes the file of an earlier process with the same folder, which would cut a resumed run's
curves; this one keeps it and drops only lines of steps that are about to be repeated. The trade-off: it assumes that
steps increase within a process.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from neo_lightning.data.files import replacing


class RunCSVLogger(Logger):
    """Writes `metrics.csv` into a folder."""

    def __init__(self, save_dir: str, flush_every: int = 20) -> None:
        """
        Args:
            save_dir: folder of the file.
            flush_every: lines kept back at most; a kill loses no more than these.
        """
        super().__init__()
        self._folder = Path(save_dir)
        self._flush_every = flush_every
        self._columns: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}
        self._repeats_last = False  # the first waiting line takes the place of the last one in the file
        self._opened = False

    @property
    def path(self) -> Path:
        """The CSV file."""
        return self._folder / "metrics.csv"

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self._folder)

    @property
    def log_dir(self) -> str:
        return str(self._folder)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run's folder holds its composed recipe."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Add a line; metrics of the same step share one."""
        step = int(step or 0)
        if not self._opened:
            self._take_over(step, metrics)
        values = {name: value.item() if hasattr(value, "item") else value for name, value in metrics.items()}
        if self._waiting and self._waiting[-1]["step"] == step:
            self._waiting[-1].update(values)
        elif not self._waiting and self._last.get("step") == step:  # a validation after a checkpoint, which saves
            self._waiting, self._repeats_last = [{**self._last, **values}], True
        else:
            if len(self._waiting) >= self._flush_every:
                self.save()
            self._waiting.append({"step": step, **values})

    @rank_zero_only
    def save(self) -> None:
        """Write the lines kept back."""
        if not self._waiting:
            return
        new = [name for line in self._waiting for name in line if name not in self._columns]
        lines, self._waiting, self._last = self._waiting, [], self._waiting[-1]
        if new or self._repeats_last:
            self._columns += list(dict.fromkeys(new))
            before = self._read()
            self._rewrite([*(before[:-1] if self._repeats_last else before), *lines])
            self._repeats_last = False
        else:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerows(lines)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _take_over(self, step: int, names: Collection[str]) -> None:
        """Keep what an earlier process logged before `step`, and its line of `step` where no name of that comes again.

        A validation that was left and is done again logs no loss; a step that is done again logs what it did before.
        """
        self._opened = True
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            return
        before = [line for line in self._read() if (line.get("step") or "").isdigit() and int(line["step"]) <= step]
        if before and int(before[-1]["step"]) == step:
            if any(before[-1].get(name) for name in names):
                before.pop()
            else:
                self._last = {**before[-1], "step": step}
        self._columns = list(dict.fromkeys(name for line in before for name in line))
        self._rewrite(before)

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line: a part of a number is another number
        lines = csv.DictReader(whole.splitlines())
        return [{k: v for k, v in line.items() if k is not None and v is not None} for line in lines]

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        with replacing(self.path) as copy, copy.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if self._columns:
                writer.writeheader()
            writer.writerows(lines)
