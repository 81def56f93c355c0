"""Where the ranks of a training meet before there is a process group: the store that it will take."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from torch.distributed import rendezvous

from neo_lightning.training.pulse import RankLostError


def meet(strategy: Any, minutes: float) -> Any:
    """The store of the process group to come, when all ranks of a strategy have come to it.

    Raises:
        RankLostError: some did not.
    """
    cluster = strategy.cluster_environment
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = cluster.main_address, str(cluster.main_port)
    rank, world = strategy.global_rank, strategy.world_size
    try:
        store, _, _ = next(rendezvous("env://", rank, world, timeout=timedelta(minutes=minutes)))
    except (RuntimeError, ValueError) as error:
        raise RankLostError(
            f"rank {rank} did not meet the other {world - 1} at {cluster.main_address}:{cluster.main_port} within "
            f"{minutes:g} minutes (strategy.setup_timeout): are all started, and does this host reach that one? "
            f"({str(error).strip().partition(chr(10))[0]})"
        ) from error
    return store
