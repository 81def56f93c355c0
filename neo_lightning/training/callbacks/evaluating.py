"""Asks the recipe's evaluations while the model learns, on all ranks, and gives the scores to whoever watches them.

In: evaluations with `every_n_steps`, or `at: stage_end`. Out, as `eval/NAME` (the overall score) and `eval/NAME/PART`:
the loggers, the trainer's `callback_metrics` (what `CommitCheckpoint` keeps the best of), a line on the screen, and a
look of every `EarlyStopping` that monitors one of them. Asked is what an export would hold: the average of the weights
where `model.ema` keeps one. Nothing of the training moves: answers draw from generators of their own.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Protocol

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.utilities import rank_zero_info

from neo_lightning.answering import Engine, Ranks
from neo_lightning.training.asking import asked
from neo_lightning.training.phases import phase
from neo_lightning.training.stages import stage_ends

PREFIX = "eval/"
"""In front of an evaluation's name, in the names of its scores."""


class Asked(Protocol):
    """What this callback wants of an evaluation; see `evaluation.Evaluation`."""

    name: str
    every_n_steps: int
    at: Literal["end", "stage_end"]

    def scores(self, engine: Engine, ranks: Ranks) -> Mapping[str, float]: ...


def times_asked(evaluation: Asked, ends: Collection[int]) -> int:
    """How often an evaluation is asked in a training whose stages end after these steps."""
    return sum(due(evaluation, step, ends) for step in range(1, max(ends) + 1))


def due(evaluation: Asked, done: int, ends: Collection[int]) -> bool:
    """Whether an evaluation is asked after so many steps."""
    periodic = evaluation.every_n_steps > 0 and done % evaluation.every_n_steps == 0
    return periodic or (evaluation.at == "stage_end" and done in ends)


class Evaluating(Callback):
    """Scores while training."""

    def __init__(self, evaluations: Sequence[Asked]) -> None:
        self.evaluations = list(evaluations)

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Early stopping by a score looks when there is a new one, and not after each validation."""
        for watcher in _watchers(trainer):
            watcher._check_on_train_epoch_end = True

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Ask what is due, unless the run is about to stop."""
        if pl_module.report.stop:
            return
        done, ends = trainer.global_step, stage_ends(pl_module.stages)
        for evaluation in self.evaluations:
            if due(evaluation, done, ends):
                with phase("evaluation"):
                    self._ask(evaluation, trainer, pl_module)

    def _ask(self, evaluation: Asked, trainer: Trainer, pl_module: Any) -> None:
        started, done = time.perf_counter(), trainer.global_step
        with asked(trainer, pl_module) as (engine, ranks):
            (overall, *parts) = evaluation.scores(engine, ranks).items()
        whole = f"{PREFIX}{evaluation.name}"
        found = {whole: overall[1], **{f"{whole}/{part}": score for part, score in parts}}
        trainer.callback_metrics.update({name: torch.tensor(score) for name, score in found.items()})
        for logger in trainer.loggers:
            logger.log_metrics(found, step=done)
        seconds = time.perf_counter() - started
        rank_zero_info(f"after step {done}: {whole} {overall[1]:.4f} ({overall[0]}; {seconds:.1f} s)")
        for watcher in _watchers(trainer):
            if watcher.monitor in found:
                watcher.on_train_epoch_end(trainer, pl_module)


def _watchers(trainer: Trainer) -> list[EarlyStopping]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return [c for c in callbacks if isinstance(c, EarlyStopping) and c.monitor.startswith(PREFIX)]
