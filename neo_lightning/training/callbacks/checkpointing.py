"""Saves whole checkpoints at step boundaries, and stops cleanly when the machine is taken away.

In: steps done, requests to stop to any rank (`neo_lightning.stopping`). Out: folders `step-00000120` that are complete
or absent (`checkpoint.commit`), written beside the training (`training.saving`); one that is due while another is being
written waits for it. Nothing is saved that is not worth it: no weight that is not finite, no step that was skipped.

All ranks save and stop together, at the next place where all of them are (`training.stopping`). Nothing collective ever
happens inside a signal's handler: that is how other set-ups hang.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from neo_lightning import stopping
from neo_lightning.checkpoint import commit
from neo_lightning.training.module import NeoModule
from neo_lightning.training.parallel import reshard
from neo_lightning.training.phases import phase
from neo_lightning.training.place import check_room, check_shared
from neo_lightning.training.saving import CheckpointSaveError, Saves, UnhealthyError
from neo_lightning.training.stages import stage_ends
from neo_lightning.training.stopping import end_without_validation, ranks_store, take_over_signals
from neo_lightning.training.strategy import ASYNCHRONOUS


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
        asynchronous: bool = True,
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
            stop_after_failures: so many saves in a row that cannot be written end the run; the last good one stays.
            asynchronous: training waits for a copy of its state in host memory, not for the disk, and the checkpoint
                is committed some steps later. At a stop and at the end a save is waited for either way.
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
        self.asynchronous = asynchronous
        self.interrupted = False
        """A request to stop ended the run before its last step."""
        self._saved_at = -1
        """Step of the last save that was committed, or with which this process began."""
        self._begun_at = -1
        """Step of the last save that was begun."""
        self._due = False
        """A save was due at a step that was skipped."""
        self._failures = 0
        self._requests = ExitStack()

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
        """Refuse a folder that some ranks do not see; take over the signals."""
        if stage == "fit":
            check_shared(trainer.strategy, self.folder_of(trainer))
            take_over_signals(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Clear what a killed save left behind; from now on a request to stop is answered by all ranks together."""
        self.interrupted, self._due = False, False
        self._saved_at = self._begun_at = trainer.global_step
        if trainer.is_global_zero:
            commit.sweep(self.folder_of(trainer))
        self._forget_others(trainer)
        check_room(trainer.strategy, self.folder_of(trainer), pl_module)
        self._requests.enter_context(stopping.listening())
        self._requests.enter_context(stopping.held(ranks_store()))

    def _forget_others(self, trainer: Trainer) -> None:
        """A best whose checkpoint is not here (of the run that this one branched off, say) is none to keep or beat."""
        there = {commit.step_of(path) for path in commit.committed(self.folder_of(trainer))} if self.best else set()
        there = trainer.strategy.broadcast(there)
        for name, (value, step) in list(self.best.items()):
            if step not in there:
                del self.best[name]
                rank_zero_info(f"best {name}: {value:.4f} after step {step} has no checkpoint here and counts no more")

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Say with the step's sums how the save in flight goes."""
        pl_module.votes = _saves(trainer).votes()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time; stop if any rank was asked to."""
        assert isinstance(pl_module, NeoModule)
        report = pl_module.report
        assert report is not None
        done, ends = trainer.global_step, stage_ends(pl_module.stages)
        stop = report.stop and done < max(ends)
        with _stalling(pl_module):
            self._conclude(trainer, pl_module, lambda: _saves(trainer).settle(report.votes))
        periodic = self.every_n_steps and done % self.every_n_steps == 0
        if self._better(trainer) or periodic or done in ends or stop or self._due:
            self._save(trainer, pl_module, wait=stop or done == max(ends))
        if stop:
            end_without_validation(trainer)
            self._tell_stop(done)

    def _tell_stop(self, done: int, during: str = "") -> None:
        self.interrupted = True
        who = f" ({stopping.why()})" if stopping.asked() else ""
        saved = "saved" if self._saved_at == done else "NOT saved"
        rank_zero_info(f"asked to stop{who}{during}: {saved} after step {done}, run the same command again to go on")

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Commit what was written meanwhile; save where a loss is the best so far."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        with _stalling(pl_module):
            self._conclude(trainer, pl_module, _saves(trainer).finish)
        if self._better(trainer):
            self._save(trainer, pl_module, wait=False)

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

    def _save(self, trainer: Trainer, pl_module: NeoModule, *, wait: bool, last: bool = False) -> None:
        """Begin a save of the steps done, unless there is one; `wait` for its commit.

        What was skipped is saved with the next step that is not: the weights may be what broke the loss, and healthy
        checkpoints would be pruned for them. `last` saves it nevertheless, and prunes nothing.
        """
        done = trainer.global_step
        assert pl_module.report is not None
        self._due = bool(pl_module.report.skipped) and not last
        with _stalling(pl_module), phase("save"):
            if self._due:
                rank_zero_warn(f"no checkpoint after step {done}, which was skipped: it follows with the next good one")
                self._conclude(trainer, pl_module, _saves(trainer).finish)
                return
            if done not in (self._saved_at, self._begun_at):
                for logger in trainer.loggers:
                    logger.save()  # a resumed run does not log these steps again
                self._conclude(trainer, pl_module, _saves(trainer).finish)  # one at a time
                self._conclude(trainer, pl_module, lambda: self._begin(trainer))
            if wait or not self.asynchronous:
                self._conclude(trainer, pl_module, _saves(trainer).finish)

    def _begin(self, trainer: Trainer) -> None:
        self._begun_at = trainer.global_step
        path = trainer.strategy.broadcast(commit.fresh_name(self.folder_of(trainer), self._begun_at))
        trainer.save_checkpoint(path, weights_only=False, storage_options=ASYNCHRONOUS)

    def _conclude(self, trainer: Trainer, pl_module: NeoModule, act: Callable[[], Path | None]) -> None:
        """Do a part of a save on all ranks; where it ends one, count that, and prune what is behind it."""
        folder = self.folder_of(trainer)
        try:
            committed = act()
        except UnhealthyError as error:
            self._begun_at = self._saved_at
            rank_zero_warn(f"{error}\nThe run goes on; the last committed checkpoint is {commit.latest(folder)}")
            return
        except CheckpointSaveError as error:
            self._begun_at = self._saved_at
            self._failures += 1
            rank_zero_warn(f"{error}\nThe run goes on; the last committed checkpoint is {commit.latest(folder)}")
            if self._failures >= self.stop_after_failures:
                raise CheckpointSaveError(f"{self._failures} saves in a row failed. The last: {error}") from error
            return
        if committed is None:
            return
        self._failures, self._saved_at = 0, commit.step_of(committed)
        pl_module.save_s = _saves(trainer).seconds
        assert pl_module.report is not None
        if trainer.is_global_zero and self.keep_last and not pl_module.report.skipped:
            always = frozenset(stage_ends(pl_module.stages)) if self.keep_stage_ends else frozenset()
            always |= {step for _, step in self.best.values()}
            commit.prune(folder, keep=self.keep_last, always=always)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save where training ended before its last step (max_time, a user's callback), and hand the signals back."""
        self._conclude(trainer, pl_module, _saves(trainer).finish)
        if trainer.global_step > max(0, self._saved_at) and pl_module.report is not None:
            self._save(trainer, pl_module, wait=True, last=not self.interrupted)
        there = {commit.step_of(path): path for path in commit.committed(self.folder_of(trainer))}
        for name, (value, step) in self.best.items():
            rank_zero_info(f"best {name}: {value:.4f} after step {step}, {there.get(step, 'whose save failed')}")
        self._requests.close()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Save where all ranks stopped between two steps; else nothing, as the state may be that of half a step."""
        try:
            if isinstance(exception, stopping.StoppedTogether) and pl_module.report is not None:
                reshard(pl_module.model)
                # a validation that was left is done again, and from its first row
                trainer.fit_loop.epoch_loop.val_loop.batch_progress.reset_on_run()
                self._save(trainer, pl_module, wait=True)
                self._tell_stop(trainer.global_step)
                exception.told = True
        finally:
            self._requests.close()


def _saves(trainer: Trainer) -> Saves:
    return trainer.strategy.saves  # type: ignore[attr-defined]


@contextmanager
def _stalling(module: NeoModule) -> Iterator[None]:
    """Training waits for a save."""
    began = time.perf_counter()
    try:
        yield
    finally:
        module.save_stall_s += time.perf_counter() - began
