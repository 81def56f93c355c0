"""Two processes that share a model in lockstep: seconds of the same work, by how rows and steps are made.

Rows of text of 2,048 tokens, of many short documents and few long ones, planned by the product; a small model sharded
over both processes, whole steps (forward, backward, clipping, AdamW), one row a rank and step. The speed is work a
second, which is what balance is worth here; beside it what the plan expected. The ways take turns step by step, so
that a machine that is busy with something else is so for both; the spread over the rounds says what it did to them.
Where other programs want the cores too, they take what a waiting rank leaves, and waiting costs less time: so the CPU
seconds of a step's slowest rank are compared as well, which others change little.

    python benchmarks/balance_steps.py [--steps 24] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time
from itertools import islice

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from balance import share
from timing import place, print_table
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from neo_lightning.data.plan import Plan, StepSpec
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import cost_ratio
from neo_lightning.model.init import initial_state
from neo_lightning.model.neo import Neo
from neo_lightning.sequence import positions_and_limits
from neo_lightning.training.build import fill_parameters
from neo_lightning.training.optim import build_optimizer
from neo_lightning.training.parallel import parallelise
from neo_lightning.training.step import clip_gradients
from neo_lightning.types import IGNORE, PackedBatch, Stage

CONTEXT, RANKS = 2048, 2
CONFIG = NeoConfig(
    vocab_size=512,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
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
    optimizer = build_optimizer(model, lr=1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, lr_scales={})
    rows = {way: [row_of(ranks[rank]) for ranks in planned(way, steps)] for way in WAYS}

    def seconds(row: PackedBatch) -> Tensor:
        dist.barrier()
        began, worked = time.perf_counter(), time.process_time()
        model(row).loss_sum.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        slowest = torch.tensor([0.0, time.process_time() - worked], dtype=torch.float64)
        dist.barrier()
        slowest[0] = time.perf_counter() - began
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        return slowest

    for way in WAYS:  # what is done once
        seconds(rows[way][0])
    found: list[dict[str, Tensor]] = []
    for _ in range(rounds):
        found.append({way: torch.zeros(2, dtype=torch.float64) for way in WAYS})
        for step in range(steps):
            for way in WAYS if step % 2 else reversed(WAYS):
                found[-1][way] += seconds(rows[way][step])
    if rank == 0:
        results.put([{way: both.tolist() for way, both in one.items()} for one in found])
    dist.destroy_process_group()


def main() -> None:
    """Print both ways' seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24, help="of each way in a round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = mp.get_context("spawn").SimpleQueue()
    mp.spawn(work, (port, args.steps, args.rounds, results), nprocs=RANKS)
    found: list[dict[str, list[float]]] = results.get()  # a round: way -> seconds, and the slowest rank's of work
    plans = {way: [ranks[0] for ranks in planned(way, args.steps)] for way in WAYS}
    expected = {way: share(specs) for way, specs in plans.items()}
    cost = {way: sum(spec.cost for spec in specs) for way, specs in plans.items()}
    lines = []
    for way, name in zip(WAYS, ("as they come", "of like cost"), strict=True):
        times = [with_spread([one[way][which] for one in found]) for which in (0, 1)]
        lines.append((name, *times, f"{cost[way] / CONTEXT:,.1f}", f"{expected[way]:.1%}"))
    title = f"{args.steps} steps of {RANKS} rows of {CONTEXT} tokens, {args.rounds} rounds; {place()}, one a process"
    head = ("steps", "s (least-most)", "slowest rank's CPU s", "work, in a row's tokens", "expected share of work")
    print_table(title, head, lines)
    print("\nwork a second, of like cost over as they come, median (least-most) of the rounds:")
    for which, name in enumerate(("by the clock", "by the slowest rank's CPU seconds")):
        gains = [cost["steps"] / one["steps"][which] / (cost["none"] / one["none"][which]) for one in found]
        print(f"{name}: {with_spread(gains)}x")
    print(f"expected: {expected['steps'] / expected['none']:.2f}x")


def with_spread(values: list[float]) -> str:
    """Median, and least and most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}-{max(values):.2f})"


if __name__ == "__main__":
    main()
