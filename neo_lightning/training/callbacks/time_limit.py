"""Ends one start of a run after a time, so that a queue's slot is left with everything saved.

In: the clock. Out: a request to stop, as a signal makes one (`neo_lightning.stopping`), which travels to all ranks with
the sums of the step that is about to begin: it is then the last of this start. Lightning's Timer counts the whole run
instead (its state is in the checkpoint), and with it the same command would stop at once for ever.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import Timer

from neo_lightning import stopping
from neo_lightning.training.stopping import end_without_validation


class TimeLimit(Callback):
    """What `trainer.max_time` becomes."""

    def __init__(self, duration: str | timedelta | dict[str, int]) -> None:
        """Args: `duration` of the steps of one start, as Lightning writes it (DD:HH:MM:SS, or fields of timedelta)."""
        self.seconds = Timer(duration).time_remaining() or 0.0
        self._began = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Ask all ranks to stop after this step, if the time is used up."""
        if time.monotonic() - self._began >= self.seconds and not stopping.asked():
            if trainer.is_global_zero:
                print(f"trainer.max_time: the {self.seconds:g} s of this start are used up", flush=True)
            stopping.ask("trainer.max_time")

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop, where nothing is saved and `CommitCheckpoint` cannot do it."""
        if pl_module.report.stop:
            end_without_validation(trainer)
