"""What steps of like cost do to learning: the demo with `data.balance: steps` and without, paired by seed.

    python benchmarks/balance_learning.py [--seeds 4] [--out runs/balance] [OVERRIDE ...]
    python benchmarks/balance_learning.py --seeds 1 --stages.pretrain.steps=2 ...      a few steps, to try it

Each run is `lightning run recipes/demo.yaml` with the scenes and the weights of one seed for both ways. A run that is
done is not done again, and one that was killed goes on from its checkpoint: the same command, as often as need be.
Printed are the paired differences (steps minus slots) of the held-out scores in percentage points and of the last
losses, with 95% intervals by Student's t over the pairs.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from demo_seeds import read, scenes
from timing import print_table

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("slots", "steps")
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""Degrees of freedom -> 97.5th percentile of Student's t."""
LAST = 0.1
"""Part of the log whose losses are averaged."""


def neo_lightning(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "neo_lightning", *words], cwd=ROOT, check=True)


def run(out: Path, way: str, seed: int, overrides: Sequence[str]) -> Path:
    """Folder of a finished run."""
    folder = out / f"{way}-{seed}"
    if not (folder / "report.json").exists():
        if not (folder / "scenes" / "manifest.yaml").exists():
            neo_lightning("data", "scenes", "--out", str(folder / "scenes"), "--seed", str(seed))
        line = [f"--run.name={folder.name}", f"--run.dir={folder}", f"--seed_everything={seed}"]
        neo_lightning("run", "recipes/demo.yaml", *line, f"--data.balance={way}", *overrides)
    return folder


def results(folder: Path) -> dict[str, float]:
    """Scores of the report in percent, and the mean of the last losses."""
    found = {}
    with (folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]
    found["loss"] = statistics.fmean(losses[-max(1, round(LAST * len(losses))) :])
    for name, entry in scenes(read(folder)).items():
        found[name] = 100 * entry["accuracy"]
    return found


def interval(differences: Sequence[float]) -> str:
    """Mean and 95% interval of paired differences."""
    mean, freedom = statistics.fmean(differences), len(differences) - 1
    if freedom not in T95:
        return f"{mean:+.3f}"
    half = T95[freedom] * statistics.stdev(differences) / len(differences) ** 0.5
    return f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f})"


def main() -> None:
    """Run what is not done yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="pairs of runs")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "balance")
    args, overrides = parser.parse_known_args()
    out = args.out.resolve()
    found = {way: [results(run(out, way, seed, overrides)) for seed in range(args.seeds)] for way in WAYS}
    lines = []
    for name in found["slots"][0]:
        slots, steps = ([one[name] for one in found[way]] for way in WAYS)
        differences = [b - a for a, b in zip(slots, steps, strict=True)]
        lines.append((name, f"{statistics.fmean(slots):.3f}", f"{statistics.fmean(steps):.3f}", interval(differences)))
    print_table(f"{args.seeds} pairs of runs", ("of", "slots", "steps", "steps minus slots, 95%"), lines)


if __name__ == "__main__":
    main()
