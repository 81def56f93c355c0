"""What sweeps have said, for docs/ablations.md: a figure and a table of each.

    python benchmarks/ablate.py runs/ablations/depth ...     keeps sweep.json as docs/ablations/depth.json
    python benchmarks/ablate.py                              draws docs/ablations/*.svg, prints the tables of all

The record that is kept has every run's numbers, so that whoever doubts a table can test it in another way.
`tests/test_ablate.py` holds docs/ablations.md to what this prints.
"""

from __future__ import annotations

import argparse
import json
import re
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from neo_lightning.report.charts import HEIGHT, WIDTH, Line, line_chart
from neo_lightning.report.sweep import colour_of

KEPT = Path(__file__).resolve().parents[1] / "docs" / "ablations"
STYLE = """
svg { background: #fff; font: 11px system-ui, sans-serif; }
.grid { stroke: #e3e1dc; } .axis, .name { fill: #5c6570; } .end { text-anchor: end; } .middle { text-anchor: middle; }
.curve { fill: none; stroke-width: 1.9; stroke-linejoin: round; } .spread { opacity: .14; }
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folders", nargs="*", type=Path, help="of sweeps, with their sweep.json")
    for folder in parser.parse_args().folders:
        found = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        KEPT.mkdir(exist_ok=True)
        (KEPT / f"{found['name']}.json").write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")
    for file in sorted(KEPT.glob("*.json")):
        found = json.loads(file.read_text(encoding="utf-8"))
        file.with_suffix(".svg").write_text(figure(found), encoding="utf-8")
        print(f"## {found['name']}\n\n{table(found)}\n")
    return 0


def table(found: dict[str, Any]) -> str:
    """Markdown: an arm a line, its means, and their differences to the baseline with intervals over seeds."""
    measures = list(next(iter(found["arms"].values()))["measures"])
    lines = ["| arm | " + " | ".join(measures) + " | parameters | FLOP | s |", "|---|" + "---:|" * (len(measures) + 3)]
    for arm, said in found["arms"].items():
        cells = [_cell(said["measures"][measure]) for measure in measures]
        if cost := said["cost"]:
            cells += [f"{cost['parameters'] / 1e6:.2f} M", f"{cost['flops']:.2g}", f"{cost['seconds']:.0f}"]
        else:
            cells += ["–"] * 3
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    verdicts = []
    for expected in found["expected"]:
        gap = expected["difference"]
        text = f"- {expected['better']} better than {expected['worse']} ({expected['because']}): **{expected['said']}**"
        if gap and gap["interval"]:
            low, high = gap["interval"]
            text += f", {gap['mean']:+.3f} ({low:+.3f} to {high:+.3f}), p = {gap['p']:.3f}"
        verdicts.append(text)
    return (
        "\n".join(lines)
        + (f"\n\nExpected in {found['expected'][0]['measure']}:\n\n" if verdicts else "")
        + "\n".join(verdicts)
    )


def _cell(measure: dict[str, Any]) -> str:
    if not measure["values"]:
        return "–"
    text = f"{fmean(measure['values'].values()):.3f}"
    gap = measure["against_baseline"]
    if gap is None or not gap["interval"]:
        return text
    low, high = gap["interval"]
    return f"{text} ({low:+.3f} to {high:+.3f})"


def figure(found: dict[str, Any]) -> str:
    """The headline's curves: means over seeds and 95% intervals."""
    first = next(iter(found["arms"].values()))
    column = next(iter(first["curves"]))
    lines = [
        Line(
            name="", points=said["curves"][column]["mean"], spread=said["curves"][column]["spread"], colour=colour_of(i)
        )
        for i, said in enumerate(found["arms"].values())
    ]
    drawn = re.search(r"<svg[^>]*>(.*)</svg>", line_chart(column, lines, []), re.DOTALL)
    assert drawn is not None
    legend = "".join(
        f'<rect x="{WIDTH + 8}" y="{24 + 18 * i}" width="10" height="10" fill="{colour_of(i)}"/>'
        f'<text class="name" x="{WIDTH + 24}" y="{33 + 18 * i}">{escape(arm)}</text>'
        for i, arm in enumerate(found["arms"])
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 130} {HEIGHT}" width="{WIDTH + 130}">'
        f'<style>{STYLE}</style><text class="name" x="8" y="14">{escape(column)}</text>{drawn[1]}{legend}</svg>\n'
    )


if __name__ == "__main__":
    raise SystemExit(main())
