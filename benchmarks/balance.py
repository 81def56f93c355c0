"""What ranks wait for each other, by how rows and steps are made: the product's plan over sources that do not exist.

Documents have log-normal lengths of mean 600 (text), 1,500 (image), 3,000 (several images) and 8,000 tokens (video), in
the mixture 2:4:1:1 of samples, as `neo_ov_2b` and `neo_ov_9b` assume; visible pairs are those of a causal mask, which
units add little to. Everything else is what a run does: bundles, packing, steps, dealing to ranks; and the cost of a
pair and of a supervised token as the recipe's network has it.

    python benchmarks/balance.py [--steps 64] [--sigma 0.8]

Columns: share of the ranks' time that is work, where a step's rows come as they are drawn, are dealt by cost, and where
steps are of like cost; fill; standard deviation over the steps of the share of tokens that is video, with steps as they
come and of like cost; packs planned a second.
"""

from __future__ import annotations

import argparse
import time
from collections import OrderedDict
from itertools import islice

import numpy as np

from neo_lightning.data.plan import Plan, StepSpec
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import cost_ratio
from neo_lightning.training.build import PRESETS
from neo_lightning.types import Stage

MEAN = {"text": 600, "image": 1500, "multi_image": 3000, "video": 8000}
MIXTURE = {"text": 2, "image": 4, "multi_image": 1, "video": 1}
SUPERVISED = {"text": 300, "image": 50, "multi_image": 50, "video": 50}
"""Tokens of an answer, at most half of the document."""
SHARD_PART = 1024
KEPT = 4096


class LogNormal:
    """A source of documents whose lengths follow from their numbers."""

    shard_parts = 512

    def __init__(self, name: str, sigma: float) -> None:
        self.name, self.sigma = name, sigma

    def shard_part_size(self, shard_part: int) -> int:
        """Samples."""
        return SHARD_PART

    def lengths(self, shard_part: int, context: int) -> np.ndarray:
        """Tokens; 0 where a document does not fit."""
        random = np.random.RandomState([shard_part, MEAN[self.name]])
        mean = np.log(MEAN[self.name]) - self.sigma**2 / 2
        found = np.maximum(20, random.lognormal(mean, self.sigma, SHARD_PART)).astype(np.int64)
        return np.where(found > context, 0, found)


def plans(preset: str, context: int, packs_per_step: int, sigma: float) -> dict[str, Plan]:
    """The same stage planned in each way."""
    stage = Stage(steps=10_000, context=context, packs_per_step=packs_per_step, mixture=MIXTURE, lr=1.0)
    sources = {name: LogNormal(name, sigma) for name in MIXTURE}
    ratio = cost_ratio(NeoConfig(**PRESETS[preset]))
    known: OrderedDict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def of(source: str, shard_part: int) -> tuple[np.ndarray, np.ndarray]:
        key = source, shard_part
        if key not in known:
            lengths = sources[source].lengths(shard_part, context)
            supervised = np.minimum(SUPERVISED[source], lengths // 2)
            cost = ratio.pair * lengths * (lengths + 1) / 2 + ratio.supervised * supervised
            known[key] = lengths, np.rint(cost).astype(np.int64)
            if len(known) > KEPT:
                known.popitem(last=False)
        return known[key]

    def lengths_of(source: str, shard_part: int, _: Stage) -> np.ndarray:
        return of(source, shard_part)[0]

    def costs_of(source: str, shard_part: int, _: Stage) -> np.ndarray:
        return of(source, shard_part)[1]

    return {
        way: Plan({"stage": stage}, sources, lengths_of, 0, costs_of=costs_of, balance=way)  # type: ignore[arg-type]
        for way in ("none", "slots", "steps")
    }


def walk(plan: Plan, ranks: int, steps: int) -> tuple[list[StepSpec], float]:
    """Rank 0's steps, and packs of all ranks planned a second."""
    began = time.perf_counter()
    found = [spec for spec, _ in islice(plan.steps(plan.start(), 0, ranks), steps)]
    return found, sum(len(spec.packs) for spec in found) * ranks / (time.perf_counter() - began)


def share(specs: list[StepSpec]) -> float:
    """Part of the time that is work."""
    return sum(spec.cost for spec in specs) / sum(spec.cost / spec.balance for spec in specs)


def composition(plan: Plan, steps: int, context: int) -> tuple[float, float]:
    """Fill of the rows; deviation over the steps of the share of tokens that is video."""
    tokens, video, rows = [], [], 0
    for spec, _ in islice(plan.steps(plan.start()), steps):
        lengths = [(d.source, d.length) for pack in spec.packs for d in pack.documents]
        tokens.append(sum(length for _, length in lengths))
        video.append(sum(length for source, length in lengths if source == "video"))
        rows += len(spec.packs)
    return sum(tokens) / (rows * context), float(np.std(np.array(video) / np.array(tokens)))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=64, help="planned of each kind")
    parser.add_argument("--sigma", type=float, default=0.8, help="of the logarithm of lengths")
    args = parser.parse_args()
    print(f"{args.steps} steps of 128 rows, documents log-normal with sigma {args.sigma}, ranks in lockstep")
    print("model      context  ranks  as they come   slots   steps     fill  video: as they come   steps   packs/s")
    for preset in PRESETS:
        for context in (16384, 36864):
            made = plans(preset, context, 128, args.sigma)
            plain = composition(made["none"], args.steps, context)
            fill, video = composition(made["steps"], args.steps, context)
            for ranks in (8, 128):
                found = {way: walk(plan, ranks, args.steps) for way, plan in made.items()}
                shares = {way: share(specs) for way, (specs, _) in found.items()}
                print(
                    f"{preset:<10} {context:7,} {ranks:6d}  {shares['none']:12.1%} {shares['slots']:7.1%}"
                    f" {shares['steps']:7.1%}  {fill:7.2%}  {plain[1]:19.3f} {video:7.3f} {found['steps'][1]:9,.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
