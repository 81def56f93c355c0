"""Keeps `status.json` while a command trains, exports and evaluates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from .. import exits
from ..training.status import FILE, write_status
from .errors import describe


class Following(Callback):
    """Writes the file with the first step, and at every end that code can see; rank 0's."""

    def __init__(self, folder: Path, done: int) -> None:
        """Args: the run's folder, and the steps that it has done."""
        self.folder, self.done, self.sentence = folder, done, ""
        self.began = False

    def begin(self, sentence: str = "") -> None:
        """Something is about to be done in the folder."""
        self.began = True
        write_status(self.folder, step=self.done, sentence=sentence)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        """Nothing is noted of a start that some callback still refuses."""
        self.done = trainer.global_step
        if not self.began:
            self.begin("training")

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Steps done."""
        self.done = trainer.global_step

    def through(self, work: Callable[[], int]) -> int:
        """Do what gives the exit status, and note it."""
        try:
            status = work()
        except BaseException as error:
            status = exits.INTERRUPTED if isinstance(error, KeyboardInterrupt) else exits.status_of(error)
            self._end(status, describe(error))
            raise
        self._end(status, self.sentence or exits.MEANING[status])
        return status

    def _end(self, status: int, sentence: str) -> None:
        if self.began or (status != exits.USER_ERROR and (self.folder / FILE).is_file()):
            write_status(self.folder, step=self.done, status=status, sentence=sentence)
