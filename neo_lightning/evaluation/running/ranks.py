"""Processes of one evaluation, as `torchrun` starts them: who am I, and what all do together; on a CPU, too."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist

_PATIENCE = timedelta(days=14)
"""For the slowest rank; a rank that dies is the launcher's to notice."""


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are; (0, 1) without a launcher."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def together() -> Iterator[None]:
    """Do something in every process; returns when all have done it. What refuses one refuses all, none waits for it.

    Raises:
        ValueError: another process could not do it; the first such one's own words.
    """
    rank, world = rank_and_world()
    if world == 1:
        yield
        return
    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=_PATIENCE)
    said: list[str | None] = [None] * world
    try:
        yield
    except Exception as error:
        dist.all_gather_object(said, f"rank {rank}: {error}")
        raise
    dist.all_gather_object(said, None)
    if first := next(filter(None, said), None):
        raise ValueError(first)


def leave() -> None:
    """Be no process of many any more."""
    if dist.is_initialized():
        dist.destroy_process_group()
