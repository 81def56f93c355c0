"""Saves whole checkpoints at step boundaries, and stops cleanly when the machine is taken away.

In: steps done, SIGTERM or SIGUSR1 to any rank. Out: folders `step-00000120` that are complete or absent
(`checkpoint.commit`). A signal handler only sets a flag; the flag travels to all ranks with the step's sums, and at the
next step boundary all of them save and stop together. Nothing collective ever happens inside a handler: that is how
other set-ups hang.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from neo_lightning.checkpoint import commit
from neo_lightning.training.module import NeoModule
from neo_lightning.training.phases import phase
from neo_lightning.training.place import check_room, check_shared
from neo_lightning.training.stages import stage_ends
from neo_lightning.training.strategy import CheckpointSaveError

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class CommitCheckpoint(Checkpoint):
    """Checkpoints every N steps, at the end of each stage and of the run, and before an announced stop."""

    def __init__(
        self,
        folder: str | None = None,
        every_n_steps: int = 500,
        keep_last: int = 2,
        keep_stage_ends: bool = True,
        keep_best: Mapping[str, Literal["max", "min"]] | None = None,
        stop_after_failures: int = 3,
    ) -> None:
        """
        Args:
            folder: where; `checkpoints` below the trainer's default_root_dir if None.
            every_n_steps: 0 saves at the ends of stages only.
            keep_last: so many of the newest stay; 0 keeps all.
            keep_stage_ends: checkpoints at the end of a stage stay (to branch from), whatever their age.
            keep_best: score or loss -> whether the largest or the smallest is best, such as
                `{eval/scenes: max, val_loss: min}`. Where one is the best so far its step is saved, and
                stays until there is a better one.
            stop_after_failures: so many saves in a row that fail end the run. A failed one leaves the last good one.
        """
        super().__init__()
        if every_n_steps < 0 or keep_last < 0 or stop_after_failures < 1:
            raise ValueError("checkpoints: need every_n_steps >= 0, keep_last >= 0, stop_after_failures >= 1")
        self.folder, self.every_n_steps, self.keep_last = folder, every_n_steps, keep_last
        self.keep_stage_ends, self.stop_after_failures = keep_stage_ends, stop_after_failures
        self.keep_best = dict(keep_best or {})
        if wrong := {mode for mode in self.keep_best.values() if mode not in ("max", "min")}:
            raise ValueError(f"checkpoints: keep_best takes max or min, found {sorted(map(str, wrong))[0]!r}")
        self.best: dict[str, tuple[float, int]] = {}
        """Score -> its best value so far, and after which step."""
        self.interrupted = False
        """A signal ended the run before its last step."""
        self._saved_at = -1
        self._failures = 0
        self._handlers: dict[signal.Signals, Any] = {}

    def folder_of(self, trainer: Trainer) -> Path:
        """Where this trainer's checkpoints lie."""
        return Path(self.folder) if self.folder else Path(trainer.default_root_dir) / "checkpoints"

    def state_dict(self) -> dict[str, Any]:
        """The best so far."""
        return {"best": {name: list(found) for name, found in self.best.items()}} if self.best else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        kept = {name: found for name, found in state_dict.get("best", {}).items() if name in self.keep_best}
        self.best = {name: (float(value), int(step)) for name, (value, step) in kept.items()}

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse a folder that some ranks do not see."""
        if stage == "fit":
            check_shared(trainer.strategy, self.folder_of(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Clear what a killed save left behind, and take over the signals (Lightning's handlers can hang)."""
        self.interrupted, self._saved_at = False, trainer.global_step
        if trainer.is_global_zero:
            commit.sweep(self.folder_of(trainer))
        check_room(trainer.strategy, self.folder_of(trainer), pl_module)

        def ask_to_stop(number: int, frame: FrameType | None) -> None:
            pl_module.stop_requested = True

        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, ask_to_stop) for number in SIGNALS}

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time; stop if any rank was asked to."""
        assert isinstance(pl_module, NeoModule)
        assert pl_module.report is not None
        done, ends = trainer.global_step, stage_ends(pl_module.stages)
        periodic = self.every_n_steps and done % self.every_n_steps == 0
        stop = pl_module.report.stop and done < max(ends)
        if self._better(trainer) or periodic or done in ends or stop:
            self._save(trainer, pl_module)
        if stop:
            self.interrupted = True
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop.min_steps = None  # a stop that cannot wait
            saved = "saved" if self._saved_at == done else "NOT saved"
            rank_zero_info(f"asked to stop: {saved} after step {done}, run the same command again to go on")

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save where a loss is the best so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self._better(trainer):
            self._save(trainer, pl_module)

    def _better(self, trainer: Trainer) -> bool:
        """Note what is better than all before."""
        news = {}
        for name, mode in self.keep_best.items():
            value = float(trainer.callback_metrics.get(name, math.nan))
            before = self.best.get(name, (-math.inf if mode == "max" else math.inf, 0))[0]
            if value > before if mode == "max" else value < before:  # neither holds for nan
                news[name] = value, trainer.global_step
        self.best |= news
        return bool(news)

    def _save(self, trainer: Trainer, pl_module: NeoModule) -> None:
        done, folder = trainer.global_step, self.folder_of(trainer)
        if done == self._saved_at:
            return
        for logger in trainer.loggers:
            logger.save()  # a resumed run does not log these steps again
        try:
            path = trainer.strategy.broadcast(commit.fresh_name(folder, done))
            with phase("save"):
                trainer.save_checkpoint(path, weights_only=False)
        except CheckpointSaveError as error:
            self._failures += 1
            rank_zero_warn(f"{error}\nThe run goes on; the last committed checkpoint is {commit.latest(folder)}")
            if self._failures >= self.stop_after_failures:
                raise CheckpointSaveError(f"{self._failures} saves in a row failed. The last: {error}") from error
            return
        self._failures, self._saved_at = 0, done
        if trainer.is_global_zero and self.keep_last:
            always = frozenset(stage_ends(pl_module.stages)) if self.keep_stage_ends else frozenset()
            always |= {step for _, step in self.best.values()}
            commit.prune(folder, keep=self.keep_last, always=always)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save where training ended before its last step (max_time, a user's callback), and hand the signals back."""
        if trainer.global_step > max(0, self._saved_at) and pl_module.report is not None:
            self._save(trainer, pl_module)
        there = {commit.step_of(path): path for path in commit.committed(self.folder_of(trainer))}
        for name, (value, step) in self.best.items():
            rank_zero_info(f"best {name}: {value:.4f} after step {step}, {there.get(step, 'whose save failed')}")
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Hand the signals back. Nothing is saved: the state may be that of half a step."""
        self._release()

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}
