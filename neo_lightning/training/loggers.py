"""Logs that survive being killed and continued, and a full disk.

In: metrics and steps. Out: `metrics.csv` with one line per logged step, columns in order of appearance, floats exact;
and TensorBoard's files. What cannot be written for a while ends no run (`best_effort`). Lightning's own CSV logger
deletes the file of an earlier process with the same folder, which would cut a resumed run's curves; this one keeps it
and drops only lines of steps that are about to be repeated. The trade-off: it assumes that steps increase within a
process.
"""

from __future__ import annotations

import csv
import io
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from neo_lightning.data.files import append_whole, replacing
from neo_lightning.training.best_effort import BestEffort

KEPT_BACK = 10_000
"""Lines that wait for a full disk at most; then the oldest are dropped."""
_ROOM = 1 << 20
"""Free bytes with which TensorBoard is tried again: each try leaves a file."""


class RunCSVLogger(Logger):
    """Writes `metrics.csv` into a folder."""

    def __init__(self, save_dir: str, flush_every: int = 20, flush_s: float = 10.0) -> None:
        """
        Args:
            save_dir: folder of the file.
            flush_every: lines kept back at most; a kill loses no more than these.
            flush_s: seconds that a line is kept back at most, once there is another one: who looks sees what goes on.
        """
        super().__init__()
        self._folder = Path(save_dir)
        self._flush_every, self._flush_s = flush_every, flush_s
        self._flushed = time.monotonic()
        self._columns: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        self._last: dict[str, Any] = {}
        self._repeats_last = False  # the first waiting line takes the place of the last one in the file
        self._before: list[dict[str, Any]] | None = None  # to what the file has still to be cut, the disk being full
        self._opened = False
        self._effort = BestEffort(str(self.path))

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
            if len(self._waiting) >= self._flush_every or time.monotonic() - self._flushed > self._flush_s:
                self.save()
            self._waiting.append({"step": step, **values})

    @rank_zero_only
    def save(self) -> None:
        """Write the lines kept back."""
        self._flushed = time.monotonic()
        if not self._waiting:
            return
        with self._effort.attempt():
            self._write(self._waiting)
            self._waiting, self._last, self._repeats_last = [], self._waiting[-1], False
        if spare := max(0, len(self._waiting) - KEPT_BACK):
            self._waiting, self._repeats_last = self._waiting[spare:], False
            self._effort.dropped += spare

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()
        self._effort.end(len(self._waiting))
        if status != "success":  # a training that goes back logs some steps again
            self._opened = False

    def _write(self, lines: list[dict[str, Any]]) -> None:
        """All of the lines, or none."""
        cut, wider = self._before is not None, any(name not in self._columns for line in lines for name in line)
        if cut or wider or self._repeats_last:
            before = self._read() if self._before is None else self._before
            self._rewrite([*(before[:-1] if self._repeats_last else before), *lines])
            self._before = None
        else:
            text = io.StringIO(newline="")
            csv.DictWriter(text, self._columns).writerows(lines)
            append_whole(self.path, text.getvalue())

    def _take_over(self, step: int, names: Collection[str]) -> None:
        """Keep what an earlier process logged before `step`, and its line of `step` where no name of that comes again.

        A validation that was left and is done again logs no loss; a step that is done again logs what it did before.
        """
        self._opened = True
        with self._effort.attempt():
            self._folder.mkdir(parents=True, exist_ok=True)
        # of a training that goes back within this process, what a full disk has kept from the file goes likewise
        self._waiting, self._repeats_last = [line for line in self._waiting if line["step"] < step], False
        if not self.path.exists():
            return
        found = self._read() if self._before is None else self._before
        before = [line for line in found if (line.get("step") or "").isdigit() and int(line["step"]) <= step]
        if before and int(before[-1]["step"]) == step:
            if any(before[-1].get(name) for name in names):
                before.pop()
            else:
                self._last = {**before[-1], "step": step}
        self._before = before
        with self._effort.attempt():
            self._rewrite(before)
            self._before = None

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last line: a part of a number is another number
        lines = csv.DictReader(whole.splitlines())
        return [{k: v for k, v in line.items() if k is not None and v is not None} for line in lines]

    def _rewrite(self, lines: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys([*self._columns, *(name for line in lines for name in line)]))
        with replacing(self.path) as copy, copy.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            if columns:
                writer.writeheader()
            writer.writerows(lines)
        self._columns = columns


class RunTensorBoardLogger(TensorBoardLogger):
    """TensorBoard's files below a run's folder. Where the disk is full, what is logged is dropped and counted."""

    def __init__(self, save_dir: str) -> None:
        """Args: `save_dir`, the run's folder."""
        super().__init__(save_dir, name="tensorboard", version="", default_hp_metric=False)
        self._effort = BestEffort(f"{save_dir}/tensorboard")

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Log in this block, `experiment` included; an OSError ends the block alone, and counts."""
        with self._effort.attempt():
            try:
                yield
            except (OSError, ValueError) as error:
                # a scalar's OSError comes as a ValueError; a writer that has failed once fails for ever
                cause = error.__cause__ if isinstance(error, ValueError) else error
                if not isinstance(cause, OSError):
                    raise
                self._experiment = None
                self._effort.dropped += 1
                raise cause from None

    def _ready(self) -> bool:
        if self._effort.failing and shutil.disk_usage(self._root_dir).free < _ROOM:
            self._effort.dropped += 1
            return False
        return True

    @rank_zero_only
    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        if self._ready():
            with self.attempt():
                super().log_metrics(*args, **kwargs)

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        if self._ready():
            with self.attempt():
                super().log_hyperparams(*args, **kwargs)

    @rank_zero_only
    def save(self) -> None:
        """Flush. Lightning's would write an empty `hparams.yaml` too, and import the clients of stores on its way."""
        if self._ready():
            with self.attempt():
                self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._ready():
            with self.attempt():
                super().finalize(status)
        self._effort.end()
