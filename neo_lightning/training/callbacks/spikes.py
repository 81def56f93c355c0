"""Goes back where the loss spikes, and passes over the packs that it spiked on.

In: losses of steps, which are the same on all ranks. Out: nothing while all is well. A loss above median + k x MAD of
the last losses, `patience` times running, is a spike: the run goes back to the newest checkpoint in front of it, the
packs of those steps are listed in `RUN/rewinds.jsonl` (`training.rewinds`) and skipped, and the training goes on as one
would that had them in `data.skip` from the start. Off by default: a recipe names it in `trainer.callbacks`.
"""

from __future__ import annotations

import math
from collections import deque
from pathlib import Path
from statistics import median
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from neo_lightning.checkpoint import commit
from neo_lightning.training import rewinds
from neo_lightning.training.module import NonFiniteError
from neo_lightning.training.saving import CheckpointSaveError

_LEAST_DEVIATION = 1e-3
"""Of the median: losses that hardly differ have no spread to measure by."""


class SpikeError(NonFiniteError):
    """The loss spikes, and there is nothing to go back to, or it was gone back to often enough."""


class SpikeGuard(Callback):
    """Rewinds and skips."""

    def __init__(self, k: float = 10.0, window: int = 128, patience: int = 3, most_rewinds: int = 3) -> None:
        """
        Args:
            k: how many median absolute deviations above the median a loss must be.
            window: so many last losses of the stage are looked at; a quarter of them must be there.
            patience: so many such losses running are a spike; fewer are noise.
            most_rewinds: of a run; one more spike ends it.

        Raises:
            ValueError: one is out of range.
        """
        if k <= 0 or window < 4 or patience < 1 or most_rewinds < 0:
            raise ValueError("SpikeGuard: need k > 0, window >= 4, patience >= 1, most_rewinds >= 0")
        self.k, self.window, self.patience, self.most_rewinds = k, window, patience, most_rewinds
        self._losses: deque[float] = deque(maxlen=window)
        self._spike: list[tuple[int, int, float]] = []  # step, its first pack, loss
        self._stage = ""
        self._pack = 0

    def state_dict(self) -> dict[str, Any]:
        """What was seen of the stage."""
        return {"losses": list(self._losses), "spike": [list(seen) for seen in self._spike], "stage": self._stage}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses = deque(state_dict["losses"], maxlen=self.window)
        self._spike = [(int(step), int(pack), float(loss)) for step, pack, loss in state_dict["spike"]]
        self._stage = state_dict["stage"]

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Refuse what it cannot work with.

        Raises:
            ValueError: packs of this data module cannot be skipped, or no checkpoints are saved.
        """
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "fit" and not (hasattr(datamodule, "pack_at") and hasattr(datamodule, "skip_packs")):
            raise ValueError("SpikeGuard skips packs: it needs a NeoDataModule, or one with `pack_at` and `skip_packs`")
        if stage == "fit" and not hasattr(trainer.checkpoint_callback, "folder_of"):
            raise ValueError("SpikeGuard goes back to checkpoints: it needs CommitCheckpoint (enable_checkpointing)")

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Where the step begins in the plan."""
        self._pack = trainer.datamodule.pack_at(trainer.global_step)  # type: ignore[attr-defined]

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the step's loss.

        Raises:
            Rewound: the run goes back.
            SpikeError: it cannot, or not any more.
        """
        report = pl_module.report
        if report.skipped:
            return
        if report.stage != self._stage:
            self._stage = report.stage
            self._losses.clear()
            self._spike.clear()
        if report.loss <= self.limit():
            self._losses.extend([*(loss for _, _, loss in self._spike), report.loss])
            self._spike.clear()
            return
        self._spike.append((report.step, self._pack, report.loss))
        if len(self._spike) >= self.patience:
            self._go_back(trainer)

    def limit(self) -> float:
        """Losses above it are part of a spike."""
        if len(self._losses) < self.window // 4:
            return math.inf
        middle = median(self._losses)
        deviation = median(abs(loss - middle) for loss in self._losses)
        return middle + self.k * max(deviation, _LEAST_DEVIATION * abs(middle))

    def _go_back(self, trainer: Trainer) -> None:
        step, first, _ = self._spike[0]
        last = trainer.datamodule.pack_at(trainer.global_step)  # type: ignore[attr-defined]
        losses = ", ".join(f"{seen:.4g}" for _, _, seen in self._spike)
        why = f"spike: losses {losses} in steps {step} to {trainer.global_step - 1}, more than {self.limit():.4g}"
        saver: Any = trainer.checkpoint_callback
        folder, checkpoints = Path(trainer.default_root_dir), saver.folder_of(trainer)
        try:
            trainer.strategy.saves.finish()  # type: ignore[attr-defined]  # it may be the one to go back to, or too late
        except CheckpointSaveError as error:
            rank_zero_warn(str(error))
        outcome = ("", "")
        if trainer.is_global_zero:
            outcome = self._list(folder, checkpoints, step, (first, last), why)
        problem, checkpoint = trainer.strategy.broadcast(outcome)
        if problem:
            raise SpikeError(f"{why}. {problem}")
        rank_zero_warn(f"{why}: back to {checkpoint}, packs {first} to {last - 1} are skipped")
        raise rewinds.Rewound(Path(checkpoint))

    def _list(self, folder: Path, checkpoints: Path, step: int, skip: tuple[int, int], why: str) -> tuple[str, str]:
        """What is in the way, or the checkpoint to go back to."""
        before = sum(rewind.why.startswith("spike") for rewind in rewinds.read(folder))
        if before >= self.most_rewinds:
            return f"The run was rewound {before} times already: look at the data and the learning rate", ""
        if (to := rewinds.front(checkpoints, step)) is None:
            there = ", ".join(path.name for path in commit.committed(checkpoints)) or "none"
            return f"No checkpoint is in front of step {step} (there are: {there})", ""
        rewinds.go_back(folder, checkpoints, to, skip=skip, why=why)
        return "", str(to)
