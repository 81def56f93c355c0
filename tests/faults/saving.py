"""What the tests of saves share: checkpoints of two ranks, a small disk, and trainings in processes of their own."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from neo_lightning.checkpoint import commit
from neo_lightning.checkpoint.meta import pack_meta, write_meta
from neo_lightning.checkpoint.shards import Part, write_part
from neo_lightning.training.callbacks import CommitCheckpoint
from tests.training import tiny
from tests.training.run_tiny import Tell

WHOLE = torch.arange(10.0).reshape(5, 2)
"""A tensor whose rows 0..3 and 3..5 lie in the files of two ranks."""


def two_ranks(folder: Path) -> Path:
    """A checkpoint of two ranks."""
    folder.mkdir()
    checksum = write_meta(folder, pack_meta({"neo_lightning": {"steps": 7}}))
    for rank, (first, last) in enumerate([(0, 3), (3, 5)]):
        tensors = {"weights/a": WHOLE[first:last].contiguous()}
        own = {f"random/{rank}": torch.tensor([rank, 255], dtype=torch.uint8)}
        part = Part(tensors=tensors, own=own, layout={"weights/a": ([5, 2], first)})
        write_part(folder, rank, 2, part, checksum if rank == 0 else {})
    return folder


def flip(file: Path, place: int) -> None:
    """Turn one bit of a file."""
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << place % 8
    file.write_bytes(data)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of so many bytes, where one may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {getattr(error, 'stderr', error)}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all that is left of a disk."""
    file = folder / "full"
    with file.open("wb", buffering=0) as out:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    out.write(bytes(size))
            except OSError:
                continue
    return file


class Failing(Callback):
    """Two ranks: rank 1 cannot write at step 2; has a weight that is not a number at step 4."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_rank != 1:
            return
        weight = _own_part(pl_module)
        if trainer.global_step == 2:
            resource.setrlimit(resource.RLIMIT_FSIZE, (500, resource.RLIM_INFINITY))
        elif trainer.global_step == 4:
            self.kept = weight.clone()
            weight.view(-1)[0] = torch.nan

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_rank != 1:
            return
        trainer.strategy.saves.join()
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if trainer.global_step == 4:
            _own_part(pl_module).copy_(self.kept)


def _own_part(pl_module: Any) -> torch.Tensor:
    """This rank's rows of the first weight of which it has any."""
    locals_ = (p.detach().to_local() for p in pl_module.model.parameters())
    return next(local for local in locals_ if local.numel())


def two_that_fail(folder: str) -> None:
    """Train nine steps on two ranks, save after every second."""
    torch.set_num_threads(1)
    run = tiny.stages()
    saver = CommitCheckpoint(every_n_steps=2, keep_last=0)
    callbacks = [tiny.Curriculum(print_table=False), tiny.DataPosition(), Tell("run"), Failing(), saver]
    fitter = tiny.trainer(Path(folder), steps=9, devices=2, callbacks=callbacks)
    fitter.fit(tiny.module(run), datamodule=tiny.TinyData(run))


def dies(folder: str, moment: int, listed: str = "") -> None:
    """Train to step seven, save after every second; SIGKILL in front of the `moment`-th change of a checkpoint."""
    torch.set_num_threads(1)
    seen: list[str] = []

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in ("os.rename", "os.mkdir")) or "checkpoints/" not in str(args[0]):
            return
        seen.append(f"{event} {Path(str(args[0])).relative_to(folder)}")
        if len(seen) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run = tiny.stages()
    fitter = tiny.trainer(Path(folder), Tell("run"), steps=7, save_every=2)
    last = commit.latest(Path(folder) / "checkpoints")
    fitter.fit(tiny.module(run), datamodule=tiny.TinyData(run), ckpt_path=last)
    if listed:
        Path(listed).write_text("\n".join(seen))
