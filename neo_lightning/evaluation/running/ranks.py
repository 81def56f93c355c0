"""Processes of one evaluation, as `torchrun` starts them: who am I, and wait for the others; on a CPU, too."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed as dist

_PATIENCE = timedelta(days=14)
"""For the slowest rank; a rank that dies is the launcher's to notice."""


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a launcher."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for_all() -> None:
    """Return when every process has come here."""
    if rank_and_world()[1] > 1:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
        dist.barrier()


def leave() -> None:
    """Be no process of many any more."""
    if dist.is_initialized():
        dist.destroy_process_group()
