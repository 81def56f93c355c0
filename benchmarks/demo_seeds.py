"""What the demo learns, with three seeds: one markdown table.

    python benchmarks/demo_seeds.py                  runs the demo with seeds 0, 1 and 2 (as `make demo` does), or
                                                     goes on with what lies in runs/demo-0, -1 and -2
    python benchmarks/demo_seeds.py RUN_A RUN_B      reads the report.json of finished runs

A seed draws other scenes, other weights and another order of the data. Checked before anything is printed: the runs are
of one recipe (the same question types and goals), and no run reports a failure.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from neo_lightning.evaluation.words import GROUPS, duration, label, percent

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="*", type=Path, help="run folders (or report.json files); none: run the demo")
    folders = parser.parse_args().runs or [run_demo(seed) for seed in SEEDS]
    reports = [read(folder) for folder in folders]
    print(table(reports))
    return 0


def run_demo(seed: int) -> Path:
    """Run the demo with one seed, as `make demo SEED=...` does; a finished run is left alone."""
    run = ROOT / "runs" / f"demo-{seed}"
    command = [sys.executable, "-m", "neo_lightning"]
    data = ["data", "scenes", "--out", str(run / "scenes"), "--seed", str(seed)]
    train = ["run", str(ROOT / "recipes" / "demo.yaml"), f"--run.dir={run}", f"--seed_everything={seed}"]
    for arguments in (data, train):
        subprocess.run([*command, *arguments], check=True, cwd=ROOT, stdout=sys.stderr)
    return run


def read(folder: Path) -> dict[str, Any]:
    """The report of a run; ends the program where there is none or where it names a failure."""
    file = folder if folder.suffix == ".json" else folder / "report.json"
    if not file.is_file():
        sys.exit(f"{file}: no such file; the run is not finished (make demo)")
    report = json.loads(file.read_text(encoding="utf-8"))
    if report["failures"]:
        sys.exit(f"{file}: the run failed: {'; '.join(report['failures'])}")
    return report


def scenes(report: dict[str, Any]) -> dict[str, Any]:
    """Question types of a report."""
    for result in report["evaluations"].values():
        if "types" in result:
            return result["types"]
    sys.exit(f"{report['title']}: this run asked no questions")


def table(reports: list[dict[str, Any]]) -> str:
    """Markdown: a line for each question type, then how the runs were made."""
    types = [scenes(report) for report in reports]
    first = types[0]
    for report, other in zip(reports, types, strict=True):
        if {k: v["goal"] for k, v in other.items()} != {k: v["goal"] for k, v in first.items()}:
            sys.exit(f"{report['title']}: other question types or goals than {reports[0]['title']}")
    seeds = [f"seed {report['seed']}" for report in reports]
    head = ["question type", "chance", "goal", *seeds, "pixels blanked", "learned"]
    lines = [head, ["---", *["---:"] * (len(head) - 2), "---"]]
    for name in sorted(first, key=lambda name: list(GROUPS).index(first[name]["modality"])):
        entries = [kinds[name] for kinds in types]
        blanked = " / ".join(percent(entry["blanked"]["accuracy"]) for entry in entries if entry["blanked"])
        verdicts = [entry["verdict"].split()[0].replace("learned", "yes").replace("not", "no") for entry in entries]
        chance, guess = percent(entries[0]["chance"]), percent(entries[0]["guess"])
        lines.append(
            [
                label(name),
                chance if guess == chance else f"{chance} (guess {guess})",
                percent(entries[0]["goal"]),
                *(percent(entry["accuracy"]) for entry in entries),
                blanked or "–",
                verdicts[0] if len(set(verdicts)) == 1 else " / ".join(verdicts),
            ]
        )
    made = [
        f"{seed}: {min(e['total'] for e in kinds.values())} held-out questions a type, "
        f"{sum(e['learned'] for e in kinds.values())} of {len(kinds)} types learned, "
        f"training {duration(report['wall_seconds'].get('training', 0))} on {report['machine']['cores']} cores of "
        f"{report['machine']['processor']}"
        for seed, report, kinds in zip(seeds, reports, types, strict=True)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n" + "\n".join(f"- {text}" for text in made)


if __name__ == "__main__":
    sys.exit(main())
