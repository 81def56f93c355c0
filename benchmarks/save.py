"""What a save costs the training: written in front of it, beside it, and by torch's own `async_save`.

    python benchmarks/save.py [--gigabytes 1.2] [--saves 3] [--folder FOLDER]

State of one rank: float32 weights and AdamW's two moments for each. `stall` is the time for which the training cannot
go on; the first save of a way, which makes its buffers, is in a column of its own. `total` is from the begin to the
commit, flushed to the disk, with nothing else to do. Ways take turns, so that a busy machine is busy for all of them.
Exit status 1 where files of both of ours differ in a bit, or torch's holds other numbers.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from timing import DEVICE, place, print_table
from torch import Tensor

from neo_lightning.checkpoint.shards import local_part
from neo_lightning.training.saving import Saves

LAYER = 4 * 10**6
"""Elements of a weight."""


class OneRank:
    """What `Saves` asks of a strategy."""

    global_rank, world_size, is_global_zero = 0, 1, True

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision


def state(gigabytes: float) -> dict[str, Tensor]:
    """Weights and moments."""
    count = max(1, round(gigabytes * 1e9 / (12 * LAYER)))
    size = min(LAYER, round(gigabytes * 1e9 / 12))
    kinds = ("weights/{}", "optimizer/0/{}/exp_avg", "optimizer/0/{}/exp_avg_sq")
    return {kind.format(i): torch.rand(size, device=DEVICE) for i in range(count) for kind in kinds}


def ours(saves: Saves, tensors: dict[str, Tensor], final: Path, *, beside: bool) -> tuple[float, float]:
    """(stall, total) seconds."""
    begun = time.perf_counter()
    saves.begin(final, local_part(0, tensors, {}), {"step": 1})
    stall = time.perf_counter() - begun
    saves.finish()
    total = time.perf_counter() - begun
    return (stall if beside else total), total


def torchs(tensors: dict[str, Tensor], final: Path) -> tuple[float, float]:
    """(stall, total) seconds of `async_save`, its files flushed."""
    begun = time.perf_counter()
    writer = dcp.FileSystemWriter(final, single_file_per_rank=True, sync_files=True)
    future = dcp.async_save(tensors, storage_writer=writer, process_group=dist.group.WORLD)
    stall = time.perf_counter() - begun
    future.result()
    return stall, time.perf_counter() - begun


def same(a: Path, b: Path, torchs_own: Path, tensors: dict[str, Tensor]) -> bool:
    """Ours are equal to the bit, and torch's holds the same numbers."""
    if any(file.read_bytes() != (b / file.name).read_bytes() for file in a.iterdir()):
        return False
    found = {name: torch.zeros_like(x, device="cpu") for name, x in tensors.items()}
    dcp.load(found, storage_reader=dcp.FileSystemReader(torchs_own))
    return all(torch.equal(found[name], x.cpu()) for name, x in tensors.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.2, help="of weights and moments")
    parser.add_argument("--saves", type=int, default=3, help="behind the first one")
    parser.add_argument("--folder", type=Path, help="on the disk to measure; default: a temporary one")
    args = parser.parse_args()
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(f"cpu:gloo,cuda:{backend}", store=dist.HashStore(), rank=0, world_size=1)
    tensors = state(args.gigabytes)
    size = sum(x.nbytes for x in tensors.values())
    ways: dict[str, Callable[[Path], tuple[float, float]]] = {
        "in front of it": partial(ours, Saves(OneRank()), tensors, beside=False),
        "beside it": partial(ours, Saves(OneRank()), tensors, beside=True),
        "torch's async_save": partial(torchs, tensors),
    }
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folders = {way: Path(name) / f"step-{number:08d}" for number, way in enumerate(ways)}
        for _ in range(args.saves + 1):
            for way, save in ways.items():
                shutil.rmtree(folders[way], ignore_errors=True)
                times[way].append(save(folders[way]))
        equal = same(*folders.values(), tensors)
    whole = statistics.median(stall for stall, _ in times["in front of it"][1:])
    rows = []
    for way, found in times.items():
        stall, total = (statistics.median(column) for column in zip(*found[1:], strict=True))
        rows.append([way, f"{found[0][0]:.2f}", f"{stall:.3f}", f"{stall / whole:.1%}", f"{total:.2f}"])
    title = f"{size / 1e9:.2g} GB of weights and moments, {place()}; medians of {args.saves} saves"
    print_table(title, ["saved", "first stall s", "stall s", "of a save in front", "total s"], rows)
    print(f"\nthe same numbers on the disk: {'yes' if equal else 'NO'}")
    dist.destroy_process_group()
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
