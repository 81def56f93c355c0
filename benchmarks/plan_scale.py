"""Plans 345 M samples that do not exist: memory, seconds to the first pack and to a resume, packs a second, fill.

The sources have NEO-ov's sizes and know the length of sample i only as a hash of i, made when a unit is asked for; so
this measures the plan itself, with a real run's number of units, and not the reading of sidecars.

    python benchmarks/plan_scale.py [--samples 345e6] [--lanes 1] [--packs 20000] [--resume 1000000]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import OrderedDict
from itertools import islice

import numpy as np

from neo_lightning.data.plan import Plan, Position
from neo_lightning.types import Stage

SHARD_PART = 4096
PARTS = {"text": 0.4, "image": 0.45, "multi_image": 0.1, "video": 0.05}
MIXTURE = {"text": 2, "image": 4, "multi_image": 1, "video": 1}
CONTEXT, PACKS_PER_STEP = 16384, 64


class Hashed:
    """A source of `count` samples in units of 4096, without any of them."""

    def __init__(self, name: str, count: int) -> None:
        self.name, self.count, self.shard_parts = name, count, -(-count // SHARD_PART)

    def shard_part_size(self, unit: int) -> int:
        """Samples of a unit."""
        return min(SHARD_PART, self.count - unit * SHARD_PART)

    def lengths(self, unit: int) -> np.ndarray:
        """Tokens of a unit's samples: chats, photos, sets of photos, clips of 8 to 64 frames."""
        random = np.random.RandomState([unit, len(self.name)])
        size = self.shard_part_size(unit)
        words = np.clip(random.lognormal(5, 0.8, size), 20, 2000)
        if self.name == "text":
            found = np.clip(random.lognormal(6, 0.9, size), 20, 8000)
        elif self.name == "image":
            found = random.randint(64, 1100, size) + words
        elif self.name == "multi_image":
            found = random.randint(500, 2300, size) + words
        else:
            found = random.randint(8, 65, size) * (random.randint(60, 225, size) + 14) + words
        return np.where(found > CONTEXT, 0, found).astype(np.int32)


def make_plan(samples: int, lanes: int) -> Plan:
    """The plan of one long stage."""
    sources = {name: Hashed(name, round(part * samples)) for name, part in PARTS.items()}
    kept: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()

    def lengths_of(source: str, unit: int, stage: Stage) -> np.ndarray:
        key = source, unit
        if key not in kept:
            kept[key] = sources[source].lengths(unit)
            if len(kept) > 1024:
                kept.popitem(last=False)
        kept.move_to_end(key)
        return kept[key]

    stage = Stage(steps=1_000_000, context=CONTEXT, packs_per_step=PACKS_PER_STEP, mixture=MIXTURE, lr=1.0)
    return Plan({"long": stage}, sources, lengths_of, 0, lanes=lanes)


def measure(samples: int, lanes: int, packs: int, start: dict[str, object] | None) -> dict[str, object]:
    """Plan some packs from a position on, in this process."""
    began = time.perf_counter()
    plan = make_plan(samples, lanes)
    position = plan.start() if start is None else Position.from_state(start, lanes)
    walk = plan.steps(position)
    first = next(walk)
    first_seconds = time.perf_counter() - began
    began, busy, tokens, count = time.perf_counter(), time.process_time(), 0, 0
    position = first[1]
    for spec, position in islice(walk, packs // PACKS_PER_STEP):  # noqa: B007
        count += len(spec.packs)
        tokens += sum(d.length for pack in spec.packs for d in pack.documents)
    return {
        "first": first_seconds,
        "packs": [[d.source, d.epoch, d.shard_part, d.sample_index] for d in first[0].packs[0].documents],
        "rate": count / (time.perf_counter() - began),
        "cpu": (time.process_time() - busy) / max(1, count),
        "fill": tokens / max(1, count * CONTEXT),
        "state": position.to_state(),
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def position_at(samples: int, lanes: int, pack: int) -> dict[str, object]:
    """A position near a pack that nobody has walked to: bundles of the mean size."""
    plan = make_plan(samples, lanes)
    per_bundle = 1.005 * plan.mixtures[0].rows
    done = np.full(lanes, pack // lanes)
    lanes_at = np.stack([done // per_bundle, np.zeros(lanes)])[None].astype(np.int64)
    return Position(pack // PACKS_PER_STEP, pack, lanes_at).to_state()


def in_a_process(**arguments: object) -> dict[str, object]:
    """`measure` in a process of its own, whose memory is only that."""
    script = f"import json, plan_scale; print(json.dumps(plan_scale.measure(**json.loads({json.dumps(arguments)!r}))))"
    here = __file__.rpartition("/")[0] or "."
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd=here)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=345e6)
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--packs", type=int, default=20_000)
    parser.add_argument("--resume", type=int, default=1_000_000)
    args = parser.parse_args()
    samples = int(args.samples)
    print(f"{samples:,} samples, {samples // SHARD_PART:,} units, packs of {CONTEXT}, {PACKS_PER_STEP} a step")
    print("lanes  peak RSS  first step  resume at pack  seconds   packs/s  CPU ms/pack    fill  state")
    for lanes in args.lanes:
        whole = in_a_process(samples=samples, lanes=lanes, packs=args.packs, start=None)
        far = position_at(samples, lanes, args.resume)
        resumed = in_a_process(samples=samples, lanes=lanes, packs=0, start=far)
        again = in_a_process(samples=samples, lanes=lanes, packs=0, start=far)
        assert resumed["packs"] == again["packs"], "two resumes from one position differ"
        print(
            f"{lanes:5d}  {whole['rss']:5.0f} MB  {whole['first']:8.2f} s  {args.resume:>14,}"
            f"  {resumed['first']:5.2f} s  {whole['rate']:8,.0f}  {1e3 * whole['cpu']:11.2f}  {whole['fill']:.2%}"  # type: ignore[operator]
            f"  {len(json.dumps(whole['state']))} B"
        )


if __name__ == "__main__":
    main()
