"""Begins a training with another run's weights and moments; step, stages and position in the data are its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from neo_lightning.training.strategy import NeoStrategy


class BeginFrom(Callback):
    """Loads them in front of the first step."""

    def __init__(self, checkpoint: Path) -> None:
        """Args: `checkpoint`, a committed one."""
        self.checkpoint = checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """All ranks. What Lightning noted there, of loops and callbacks, is of another run; so are random states."""
        assert isinstance(trainer.strategy, NeoStrategy)
        trainer.strategy.load_checkpoint(self.checkpoint)
        trainer.strategy.random_states = {}
