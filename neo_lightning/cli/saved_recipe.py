"""The resolved recipe in the run's folder: what trained it, for people and for the next start (`changed`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from ..data.files import replacing
from ..training.best_effort import BestEffort
from .changed import flat


class SaveRecipe(SaveConfigCallback):
    """Writes the resolved recipe to the run's folder, so that `lightning run RUN/recipe.yaml` repeats the run.

    With the first step and not before: a start that some callback refuses has trained nothing by its recipe.
    Where the disk is full it is tried again with every step.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._text: str | None = None
        self._effort = BestEffort("recipe.yaml")

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing yet."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Rank 0, once."""
        if trainer.is_global_zero and not self.already_saved and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self.save_config(trainer, pl_module, "fit")
            self.already_saved = not self._effort.failing

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write `recipe.yaml` and give the loggers its values."""
        folder = Path(trainer.default_root_dir)
        first = self._text is None
        if self._text is None:
            self._text = self.parser.dump(self.config, skip_none=False, skip_link_targets=True)
        with self._effort.attempt():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / "recipe.yaml") as copy:
                copy.write_text(self._text, encoding="utf-8")
        if first and self.config["trainer"].get("enable_autolog_hparams", True):
            values = dict(flat(yaml.safe_load(self._text)))
            for logger in trainer.loggers:
                logger.log_hyperparams(values)
