"""Starts and ends the pulse of a training on several ranks, and says which rank is slow.

In: hooks, the clock. Out: phases (`training.phases`), the end of the process where a rank is lost (`training.pulse`),
`pl_module.slowest` for the log. Comes first of all callbacks: a rank that was frozen must not write anything.
"""

from __future__ import annotations

import os
import time
import traceback
import uuid
from collections import deque
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

import torch.distributed as dist
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from neo_lightning.checkpoint import commit
from neo_lightning.exits import INTERRUPTED, status_of
from neo_lightning.stopping import StoppedTogether
from neo_lightning.training.phases import CALLBACKS, DATA, ENDED, ENDING, NOW, SETUP, STEP, begin
from neo_lightning.training.pulse import Monitor
from neo_lightning.training.rewinds import Rewound

_STEPS = 128
"""Whose median a step is measured by."""
_TIMES = 20
_SLOW = 1.5
_SLOW_SECONDS = 0.1


class Pulse(Callback):
    """Ends all ranks where one dies, freezes or hangs; nothing to do for one rank."""

    def __init__(self, silence_s: float = 30.0, least_step_s: float = 300.0, between_s: float = 7200.0) -> None:
        """
        Args:
            silence_s: a rank without a sign of life for so long is lost.
            least_step_s: what a step may take at least, before it counts as hanging; else 20 times the median step.
                The first one may take `strategy.setup_timeout`, and waiting for data what `data.loader_timeout` says.
            between_s: likewise for a save, a batch of a validation, an evaluation, samples, a user's callbacks.

        Raises:
            ValueError: one is not positive.
        """
        if min(silence_s, least_step_s, between_s) <= 0:
            raise ValueError("Pulse: silence_s, least_step_s and between_s must be positive")
        self.silence_s, self.least_step_s, self.between_s = silence_s, least_step_s, between_s
        self._monitor: Monitor | None = None
        self._seconds: deque[float] = deque(maxlen=_STEPS)
        self._stage = ""
        self._setup_s = self._data_s = 0.0
        self._named: set[int] = set()

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Begin."""
        if trainer.world_size == 1 or not dist.is_initialized():
            return
        strategy: Any = trainer.strategy
        self._setup_s = 60 * getattr(strategy, "setup_timeout", 30.0)
        self._data_s = getattr(trainer.datamodule, "loader_timeout", self.between_s) + 60  # type: ignore[attr-defined]
        folder = Path(trainer.default_root_dir)
        begin(SETUP, trainer.global_step)
        self._monitor = Monitor(
            _store(strategy, self.silence_s),
            trainer.global_rank,
            trainer.world_size,
            silence=self.silence_s,
            allowed=self._allowed,
            folder=folder,
            advice=lambda: _advice(trainer, folder),
            flush=lambda: _save_logs(trainer),
            host_of_store=_host_of_store(),
        )
        self._monitor.start(self._setup_s)

    def _allowed(self, phase: str) -> float:
        """Seconds."""
        if phase == STEP and self._seconds:
            return max(self.least_step_s, _TIMES * median(self._seconds))
        known = {SETUP: self._setup_s, STEP: max(self._setup_s, self.least_step_s), DATA: self._data_s}
        return known.get(phase, self.between_s)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """The batch is here."""
        if self._monitor is not None:
            self._monitor.check()
        begin(STEP, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """A step is done; name the slowest rank."""
        if self._monitor is None:
            return
        self._monitor.check()
        if pl_module.report.stage != self._stage:  # another length, another speed; what is compiled is compiled anew
            self._stage = pl_module.report.stage
            self._seconds.clear()
        self._seconds.append(time.monotonic() - NOW.since)
        self._monitor.steps += 1
        begin(CALLBACKS, trainer.global_step)
        if trainer.is_global_zero and (found := self._monitor.slowest()) is not None:
            beat, seconds, others = found
            pl_module.slowest = beat.rank, seconds
            if seconds > max(_SLOW * others, others + _SLOW_SECONDS) and beat.rank not in self._named:
                self._named.add(beat.rank)
                rank_zero_warn(f"{beat.name} is slow: {seconds:.2f} s of work a step, the others {others:.2f} s")

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        begin("validation")

    def on_validation_batch_start(self, *args: Any, **kwargs: Any) -> None:
        begin("validation")

    def on_test_batch_start(self, *args: Any, **kwargs: Any) -> None:
        begin("test")

    def on_predict_batch_start(self, *args: Any, **kwargs: Any) -> None:
        begin("predict")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Any, checkpoint: Any) -> None:
        """A rank that was frozen saves nothing."""
        if self._monitor is not None:
            self._monitor.check()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        begin(ENDING, trainer.global_step)

    def teardown(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """End, with all ranks."""
        self._stop()

    def _stop(self) -> None:
        if self._monitor is not None:
            self._monitor.stop()
        self._monitor = None

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Say which rank is behind a collective that has failed; tell the others of anything else.

        Raises:
            RankLostError: another rank was lost.
        """
        if (monitor := self._monitor) is None or NOW.phase == ENDED:
            return
        monitor.check()
        if isinstance(exception, Rewound | StoppedTogether):  # all of them alike
            self._stop()
            return
        if _collective_failed(exception) and (lost := monitor.explain()) is not None:
            _save_logs(trainer)
            raise lost from None
        status = INTERRUPTED if isinstance(exception, KeyboardInterrupt) else status_of(exception)
        monitor.leave(f"{type(exception).__name__}: {str(exception).strip().partition(chr(10))[0]}", status)
        self._monitor = None


def _save_logs(trainer: Trainer) -> None:
    for logger in trainer.loggers:
        logger.save()


def _collective_failed(exception: BaseException) -> bool:
    """An error of torch.distributed, or one that was raised inside of it."""
    if isinstance(exception, dist.DistError):
        return True
    frames = traceback.extract_tb(exception.__traceback__)
    inside = bool(frames) and f"torch{os.sep}distributed" in frames[-1].filename
    return isinstance(exception, RuntimeError) and (inside or "gloo" in str(exception) or "NCCL" in str(exception))


def _store(strategy: Any, silence: float) -> Any:
    """A connection of its own to the store of the process group, with keys that no other training has."""
    run = strategy.broadcast(uuid.uuid4().hex)
    where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    client = dist.TCPStore(*where, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=silence))
    return dist.PrefixStore(f"neo_lightning/pulse/{run}", client)


def _host_of_store() -> str:
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    whose = "the launcher's process" if agents else "rank 0's process"
    return f"{whose} on {os.environ['MASTER_ADDR']}"


def _advice(trainer: Any, folder: Path) -> str:
    """What to do now."""
    saver: Any = trainer.checkpoint_callback
    place = saver.folder_of(trainer) if hasattr(saver, "folder_of") else folder / "checkpoints"
    last = commit.latest(place)
    if last is None:
        return "Nothing was saved yet: the same command starts again."
    return f"The last committed checkpoint is {last}: the same command goes on from it."
