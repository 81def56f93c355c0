"""What the place of the checkpoints must offer, looked at before the first step: all ranks see it, and two fit in."""

from __future__ import annotations

import shutil
import socket
import uuid
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from neo_lightning.training.saving import CheckpointSaveError

_STATE_BYTES = 3 * 4
"""A parameter and its two moments in float32."""


def check_shared(strategy: Any, folder: Path) -> None:
    """Refuse a folder that is not the same one on every rank; every rank writes its own part of a checkpoint.

    Raises:
        ValueError: on every rank, naming the hosts.
    """
    if strategy.world_size == 1:
        return
    marker = Path(strategy.broadcast(str(folder / f".seen-{uuid.uuid4().hex}")))
    made = [path for path in (folder, *folder.parents) if not path.exists()] if strategy.is_global_zero else []
    try:
        if strategy.is_global_zero:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                marker.touch()
            except OSError as error:
                raise ValueError(f"checkpoints are kept in {folder}, which cannot be written: {error}") from error
        strategy.barrier()
        seen: list[Any] = [None] * strategy.world_size
        dist.all_gather_object(seen, (socket.gethostname(), marker.exists()))
    finally:
        if strategy.is_global_zero:
            marker.unlink(missing_ok=True)
            for path in made:
                path.rmdir()
    if blind := sorted({host for host, there in seen if not there}):
        raise ValueError(
            f"{folder} is not the same folder on {', '.join(blind)} as on {seen[0][0]}, and every rank writes its part "
            "of a checkpoint there: put run.dir on a file system that all hosts share"
        )


def check_room(strategy: Any, folder: Path, module: nn.Module) -> None:
    """Refuse a disk that has no room for a checkpoint, and warn where it has none for two.

    Raises:
        CheckpointSaveError: on every rank, with both numbers.
    """
    need = _STATE_BYTES * sum(p.numel() for p in module.parameters())
    there = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(there).free if strategy.is_global_zero else 0
    free = int(strategy.broadcast(free))
    if free >= 2 * need:
        return
    numbers = f"{folder}: a checkpoint takes up to {_size(need)}, and {_size(free)} are free"
    if free < need:
        raise CheckpointSaveError(f"{numbers}: make room, or name another run.dir")
    rank_zero_warn(f"{numbers}: there is no room for two, and the old one goes only when the new one is complete")


def _size(size: int) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB"
