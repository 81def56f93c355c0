"""What a launcher has already decided, as recipe overrides, and what the processes that a run starts itself must find.

`fabric run` sets LT_*, torchrun LOCAL_WORLD_SIZE and others.

A recipe says how many devices a run wants; a launcher says how many processes there are. Where a launcher started this
process its word holds, or each process would start a training of its own. The command line still has the last word.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping


def launcher_overrides(environ: Mapping[str, str]) -> list[str]:
    """`--trainer.key=value` arguments for what the launcher decided; empty when started by hand."""
    given: dict[str, str] = {}
    if "TORCHELASTIC_RUN_ID" in environ and "LOCAL_WORLD_SIZE" in environ:
        local = int(environ["LOCAL_WORLD_SIZE"])
        given["devices"] = str(local)
        given["num_nodes"] = str(max(1, int(environ.get("WORLD_SIZE", local)) // local))
    if environ.get("LT_CLI_USED") == "1":
        for name in ("accelerator", "devices", "num_nodes", "precision", "strategy"):
            value = environ.get(f"LT_{name.upper()}")
            if value is not None and not (name == "strategy" and value == "auto"):
                given[name] = value
    return [f"--trainer.{name}={value}" for name, value in given.items()]


def first_rank(environ: Mapping[str, str]) -> bool:
    """Whether this is rank 0 of those that a launcher, SLURM or Lightning has started; true where nobody has."""
    names = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
    return next((environ[name] == "0" for name in names if name in environ), True)


def let_segments_grow(environ: MutableMapping[str, str]) -> None:
    """Have CUDA's allocator extend its segments instead of leaving gaps between them, unless the user says otherwise.

    Rows of several lengths, and layers that are gathered and freed, otherwise cost fragments. To be called before torch
    is imported, which reads it once; processes that are started later inherit it.
    """
    if not any(f"PYTORCH_{kind}ALLOC_CONF" in environ for kind in ("", "CUDA_", "HIP_")):
        environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def share_cores(processes: int) -> None:
    """Give each of several processes on this machine's CPU its part of the cores, unless OMP_NUM_THREADS says more.

    Lightning divides them by `torch.set_num_threads` and after it has started the other ranks. That does not reach
    every library: without the variable two ranks on two cores were seen to train at half the speed.
    """
    import torch  # not at the top: `--help` must not wait for it

    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, (os.cpu_count() or 1) // processes)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
