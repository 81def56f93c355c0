"""What the tests' processes do that are asked to stop: a command, with somebody who sends the signal at a moment."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from neo_lightning.cli.main import main
from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.rows.loader import WatchedLoader
from neo_lightning.evaluation.context import Evaluation
from neo_lightning.model.batch import RunningBatch
from tests.cli import dies


def command(folder: str, argv: list[str]) -> int:
    """One rank's command line; its status goes into `status-RANK`, and nobody ends the others for it."""
    torch.set_num_threads(1)
    rank = os.environ.get("LOCAL_RANK", "0")
    status = main(argv)
    (Path(folder) / f"status-{rank}").write_text(str(status))
    return 0


def slurm_task(argv: list[str]) -> int:
    """A command line as a task of `srun`, as its environment says."""
    rank = os.environ["LOCAL_RANK"]
    for name in ("LOCAL_RANK", "NODE_RANK"):
        del os.environ[name]
    port = os.environ.pop("MASTER_PORT")
    os.environ |= {
        "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "train", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NODELIST": "localhost", "MASTER_PORT": port,
    }  # fmt: skip
    torch.set_num_threads(1)
    return main(argv)


def signalled(argv: list[str], folder: str, moment: int, listed: str = "") -> int:
    """A command that gets SIGTERM in front of its `moment`-th change of a file below `folder`."""
    return dies.run(argv, folder, moment, listed, signal.SIGTERM)


def answering(argv: list[str], folder: str, token: int) -> int:
    """A command whose rank 0 gets SIGTERM in front of its `token`-th forward pass over one token of an answer."""
    seen = 0
    decode = RunningBatch._decode

    def counted(*args: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == token and os.environ.get("LOCAL_RANK", "0") == "0":
            os.kill(os.getpid(), signal.SIGTERM)
        return decode(*args)

    RunningBatch._decode = counted  # type: ignore[method-assign]
    return command(folder, argv)


class Sends(Callback):
    """Sends a signal to its own process: in the step after so many, or in a validation's second row."""

    def __init__(
        self, name: str = "SIGTERM", after: int = -1, in_validation: bool = False, rank: int = 0, once: str = ""
    ) -> None:
        """Args: `once`, a file that says it was done."""
        self.number, self.after, self.in_validation = getattr(signal, name), after, in_validation
        self.rank, self.once = rank, Path(once) if once else None

    def _send(self, trainer: Any) -> None:
        if trainer.global_rank != self.rank or (self.once is not None and self.once.exists()):
            return
        if self.once is not None:
            self.once.touch()
        os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.after:
            self._send(trainer)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        os.write(1, f"rank {trainer.global_rank} did {trainer.global_step}\n".encode())

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        print(f"validates after {trainer.global_step}", flush=True)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, *args: Any) -> None:
        if self.in_validation and batch_idx == 1:
            self._send(trainer)

    def on_test_batch_start(self, *args: Any) -> None:
        self.on_validation_batch_start(*args)

    def on_predict_batch_start(self, *args: Any) -> None:
        self.on_validation_batch_start(*args)


class Breaks(Callback):
    """A callback with a fault."""

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        raise ZeroDivisionError("a fault of the user's own")


class Hangs(Callback):
    """Hangs after the first step, in a read of a pipe that nobody writes: all ranks, or one."""

    def __init__(self, pipe: str, rank: int | None = None) -> None:
        self.pipe, self.rank = pipe, rank

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if self.rank in (None, trainer.global_rank):
            print("hangs", flush=True)
            Path(self.pipe).read_bytes()


class Stalling:
    """A dataset of which one rank's items do not come from a step on: reading waits for a pipe that nobody writes."""

    def __init__(self, dataset: Any, pipe: str, step: int) -> None:
        self.dataset, self.pipe, self.step = dataset, pipe, step

    def __getitem__(self, spec: Any) -> Any:
        if spec.step >= self.step:
            os.write(1, b"stalls\n")
            Path(self.pipe).read_bytes()
        return self.dataset[spec]


class StallingData(NeoDataModule):
    """The data module with such a dataset."""

    def __init__(self, pipe: str, stalls_at: int, on_rank: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.pipe, self.stalls_at, self.on_rank = pipe, stalls_at, on_rank

    def _loader(self, specs: Any) -> WatchedLoader:
        loader = super()._loader(specs)
        if Path(self.pipe).exists() and self._rank_and_world()[0] == self.on_rank:
            loader._dataset = Stalling(loader._dataset, self.pipe, self.stalls_at)
        return loader


class Fails(Evaluation):
    """An evaluation that finds what must not happen."""

    name = "fails"

    def run(self, context: Any) -> dict[str, Any]:
        return {"failures": ["it is not what was trained"]}


class Blocks(Callback):
    """Puts a file in the place of the checkpoints' folder, when it has been looked at."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            folder = trainer.checkpoint_callback.folder_of(trainer)
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.write_text("")
