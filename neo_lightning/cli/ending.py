"""That a callback ended a training is noted in front of its last save, so that no kill comes between the two.

Killed before the save, the note stands for a checkpoint that is not there and counts for nothing.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer

from ..training.callbacks import CommitCheckpoint
from .notes import Ended


class Ending(Callback):
    """Writes the note; comes before `CommitCheckpoint`."""

    def __init__(self, ended: Ended, saver: CommitCheckpoint, total: int) -> None:
        """Args: the note, who tells of signals, and the steps of all stages."""
        self.ended, self.saver, self.total = ended, saver, total

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Rank 0, where somebody asked to stop who is no signal."""
        asked = trainer.should_stop and not self.saver.interrupted
        if trainer.is_global_zero and asked and trainer.global_step < self.total:
            self.ended.write(trainer.global_step, why_stopped(trainer))


def why_stopped(trainer: Any) -> str:
    """The callback that asked a trainer to stop, in its own words where it has any."""
    for callback in trainer.callbacks:
        if message := getattr(callback, "stopping_reason_message", None):  # Lightning's EarlyStopping
            return f"{type(callback).__name__}: {str(message).strip().rstrip('.')}"
        if getattr(callback, "stopped_epoch", 0):
            return f"{type(callback).__name__}, monitoring {callback.monitor}"
    return "a callback of the recipe asked to stop (trainer.should_stop)"
