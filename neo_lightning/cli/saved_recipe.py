"""The resolved recipe in the run's folder: what trained it, for people and for the next start (`changed`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from ..training.best_effort import BestEffort
from . import history
from .changed import dump, flat


class SaveRecipe(SaveConfigCallback):
    """Writes the resolved recipe to the run's folder, so that `lightning run RUN/recipe.yaml` repeats the run.

    With the first step and not before: a start that some callback refuses has trained nothing by its recipe.
    Where the disk is full it is tried again with every step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._text: str | None = None
        self._step = 0
        self._effort = BestEffort("recipe.yaml")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Rank 0, once."""
        if trainer.is_global_zero and not self.already_saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save_config(trainer, pl_module, "fit")
            self.already_saved = not self._effort.failing

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `recipe.yaml`, keep the one of before, and give the loggers its values."""
        folder = Path(trainer.default_root_dir)
        first = self._text is None
        if self._text is None:
            self._text, self._step = dump(self.parser, self.config), trainer.global_step
        with self._effort.attempt():
            folder.mkdir(parents=True, exist_ok=True)
            history.note(folder, self._step, self._text)
        if first and self.config["trainer"].get("enable_autolog_hparams", True):
            values = dict(flat(yaml.safe_load(self._text)))
            for logger in trainer.loggers:
                logger.log_hyperparams(values)
