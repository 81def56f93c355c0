"""Two processes that share a model in lockstep: seconds of the same work, by how rows and steps are made.

Rows of text of 2,048 tokens, of many short documents and few long ones, planned by the product; a small model sharded
over both processes, forward and backward, one row a rank and step. The speed is work a second, which is what balance is
worth here; beside it what the plan expected. The ways take turns, so that a machine that is busy with something else is
so for both.

    python benchmarks/balance_steps.py [--steps 24] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from balance import share
from timing import place
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from neo_lightning.data.plan import Plan, StepSpec
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import cost_ratio
from neo_lightning.model.init import initial_state
from neo_lightning.model.neo import Neo
from neo_lightning.sequence import positions_and_limits
from neo_lightning.training.build import fill_parameters
from neo_lightning.training.parallel import parallelise
from neo_lightning.types import IGNORE, PackedBatch, Stage

CONTEXT, RANKS = 2048, 2
CONFIG = NeoConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=4,
    extra_num_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    patch_hidden_size=32,
)
WAYS = ("none", "steps")


class Texts:
    """Nine short documents to one that fills half a row or more."""

    shard_parts = 64

    def shard_part_size(self, shard_part: int) -> int:
        """Samples."""
        return 512

    def lengths(self, shard_part: int) -> np.ndarray:
        """Tokens."""
        random = np.random.RandomState(shard_part)
        return np.where(random.rand(512) < 0.1, random.randint(1024, 2049, 512), random.randint(20, 200, 512))


def planned(way: str, steps: int) -> list[tuple[StepSpec, ...]]:
    """The specifications of all ranks, step by step."""
    source, ratio = Texts(), cost_ratio(CONFIG)
    stage = Stage(steps=10_000, context=CONTEXT, packs_per_step=RANKS, mixture={"text": 1}, lr=1.0)

    def lengths_of(name: str, shard_part: int, _: Stage) -> np.ndarray:
        return source.lengths(shard_part)

    def costs_of(name: str, shard_part: int, _: Stage) -> np.ndarray:
        lengths = source.lengths(shard_part)
        return np.rint(ratio.pair * lengths * (lengths + 1) / 2).astype(np.int64)

    ranks = []
    for rank in range(RANKS):
        plan = Plan({"stage": stage}, {"text": source}, lengths_of, 0, costs_of=costs_of, balance=way)  # type: ignore[arg-type]
        ranks.append([spec for spec, _ in islice(plan.steps(plan.start(), rank, RANKS), steps)])
    return list(zip(*ranks, strict=True))


def row_of(spec: StepSpec) -> PackedBatch:
    """A rank's row: its documents, and padding behind them."""
    lengths = [document.length for document in spec.packs[0].documents]
    lengths += [CONTEXT - sum(lengths)] if sum(lengths) < CONTEXT else []
    starts = np.cumsum([0, *lengths[:-1]])
    parts: list[tuple[Tensor, Tensor]] = [
        positions_and_limits(torch.zeros(n, dtype=torch.bool), torch.empty(0, 2, dtype=torch.int32)) for n in lengths
    ]
    ids = torch.arange(CONTEXT) % 500
    targets = ids.roll(-1)
    targets[-1] = IGNORE
    return PackedBatch(
        input_ids=ids,
        positions=torch.cat([position for position, _ in parts]),
        start=torch.repeat_interleave(torch.tensor(starts), torch.tensor(lengths)).int(),
        limit=torch.cat([limit + start for (_, limit), start in zip(parts, starts.tolist(), strict=True)]).int(),
        targets=targets,
        weights=(targets != IGNORE).float(),
        modality=torch.zeros(CONTEXT, dtype=torch.long),
        visual_index=torch.empty(0, dtype=torch.long),
        patches=torch.zeros(4, 768, dtype=torch.uint8),
        grids=torch.full((1, 2), 2, dtype=torch.int32),
    )


def work(rank: int, port: int, steps: int, rounds: int, results: mp.SimpleQueue) -> None:
    """One process."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS)
    with torch.device("meta"):
        model = Neo(CONFIG)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    parallelise(model, model.layers, mesh=init_device_mesh("cpu", (RANKS,)), bf16=False)
    model.to_empty(device="cpu")
    fill_parameters(model, initial_state(shapes, CONFIG, 0))
    rows = {way: [row_of(ranks[rank]) for ranks in planned(way, steps)] for way in WAYS}

    def seconds(way: str) -> float:
        dist.barrier()
        began = time.perf_counter()
        for row in rows[way]:
            model(row).loss_sum.backward()
        dist.barrier()
        return time.perf_counter() - began

    for way in WAYS:  # what is done once
        seconds(way)
    found = {way: [] for way in WAYS}  # type: ignore[var-annotated]
    for _ in range(rounds):
        for way in WAYS:
            found[way].append(seconds(way))
    if rank == 0:
        results.put({way: min(values) for way, values in found.items()})
    dist.destroy_process_group()


def main() -> None:
    """Print both ways' seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3, help="of which the fastest counts")
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(work, (port, args.steps, args.rounds, results), nprocs=RANKS)
    found = results.get()
    expected = {way: share([ranks[0] for ranks in planned(way, args.steps)]) for way in WAYS}
    cost = {way: sum(ranks[0].cost for ranks in planned(way, args.steps)) for way in WAYS}
    print(f"{args.steps} steps of {RANKS} rows of {CONTEXT} tokens; {place()}, one thread a process")
    print("steps         seconds  work (of one row's tokens)  expected share of work  work a second, over as they come")
    base = cost["none"] / found["none"]
    for way, name in zip(WAYS, ("as they come", "of like cost"), strict=True):
        speed = cost[way] / found[way] / base
        print(f"{name}  {found[way]:7.2f}  {cost[way] / CONTEXT:26,.1f}  {expected[way]:22.1%}  {speed:8.2f}x")
    print(f"expected: {expected['steps'] / expected['none']:.2f}x")


if __name__ == "__main__":
    main()
