"""Draw the README's picture, docs/demo.png, from a finished demo run: answers, accuracies and losses on one sheet.

    python benchmarks/readme_picture.py [RUN] [--out FILE]          RUN: runs/demo-0

Each example is the first held-out question of its type, right or wrong; everything comes from the run's report.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from neo_lightning.evaluation.words import GROUPS, count, duration, label, percent
from neo_lightning.report.charts import thin, unbroken

ROOT = Path(__file__).resolve().parents[1]
SCALE = 2
"""Pixels of the file for one unit of the layout below; it is drawn at twice that and shrunk, which smooths edges."""
WIDTH, HEIGHT = 1000, 640
INK, SOFT, RULE, GROUND, PAPER = "#1d2127", "#5c6570", "#e3e1dc", "#fbfaf8", "#ffffff"
VERDICTS = {"learned": "#1f8a5b", "partly learned": "#b7791f", "not learned": "#c2413b"}
MODALITIES = {"text": "#6b7280", "image": "#2563c9", "multi_image": "#c2570c", "video": "#8b3fb5"}


class Sheet:
    """A drawing in layout units."""

    def __init__(self) -> None:
        self.k = 2 * SCALE
        self.image = Image.new("RGB", (WIDTH * self.k, HEIGHT * self.k), GROUND)
        self.pen = ImageDraw.Draw(self.image)

    def _px(self, *values: float) -> tuple[float, ...]:
        return tuple(value * self.k for value in values)

    def text(self, x: float, y: float, text: str, size: float = 11, colour: str = INK, anchor: str = "la") -> None:
        font = ImageFont.load_default(size=size * self.k)
        self.pen.text(self._px(x, y), text, fill=colour, font=font, anchor=anchor)

    def box(self, x: float, y: float, w: float, h: float, fill: str, line: str | None = None, r: float = 0) -> None:
        self.pen.rounded_rectangle(self._px(x, y, x + w, y + h), self.k * r, fill=fill, outline=line, width=self.k // 2)

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        self.pen.line([self._px(*point) for point in points], fill=colour, width=round(width * self.k), joint="curve")

    def picture(self, file: Path, x: float, y: float, w: float, h: float) -> None:
        """Paste a picture, as large as it fits into the box, in its middle."""
        with Image.open(file) as opened:
            source = opened.convert("RGBA")
        times = min(w * self.k / source.width, h * self.k / source.height)
        size = round(source.width * times), round(source.height * times)
        source = source.resize(size, Image.Resampling.NEAREST)
        place = round(x * self.k + (w * self.k - size[0]) / 2), round(y * self.k + (h * self.k - size[1]) / 2)
        self.image.paste(source, place, source)

    def mark(self, x: float, y: float, right: bool) -> None:
        """A tick or a cross."""
        if right:
            self.line([(x, y + 4), (x + 3, y + 7), (x + 8, y)], VERDICTS["learned"], 1.6)
        else:
            self.line([(x, y), (x + 7, y + 7)], VERDICTS["not learned"], 1.6)
            self.line([(x, y + 7), (x + 7, y)], VERDICTS["not learned"], 1.6)

    def finished(self) -> Image.Image:
        return self.image.resize((WIDTH * SCALE, HEIGHT * SCALE), Image.Resampling.LANCZOS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", nargs="?", type=Path, default=ROOT / "runs" / "demo-0", help="folder of a finished run")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "demo.png")
    args = parser.parse_args()
    file = args.run / "report.json"
    if not file.is_file():
        sys.exit(f"{file}: no such file; finish a run first (make demo)")
    report = json.loads(file.read_text(encoding="utf-8"))
    result = next((result for result in report["evaluations"].values() if "types" in result), None)
    if result is None:
        sys.exit(f"{file}: this run asked no questions")
    sheet = Sheet()
    heading(sheet, report)
    examples(sheet, result, args.run)
    accuracies(sheet, result)
    losses(sheet, report)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    sheet.finished().quantize(256, dither=Image.Dither.NONE).save(args.out, optimize=True)
    print(f"{args.out}: {args.out.stat().st_size / 1024:.0f} KiB")
    return 0


def heading(sheet: Sheet, report: dict[str, Any]) -> None:
    machine = report["machine"]
    place = ", ".join(machine["accelerators"]) or f"{machine['cores']} CPU cores"
    time = duration(report["wall_seconds"].get("training", 0))
    facts = f"{count(report['model']['parameters'])} parameters from scratch, {time} of training on {place}"
    sheet.text(24, 18, report["headline"], 24)
    sheet.text(24, 52, f"{facts}; held-out questions, seed {report['seed']}", 12, SOFT)


def examples(sheet: Sheet, result: dict[str, Any], run: Path) -> None:
    """The first pictured example of each type: four columns, clips twice as wide below."""
    first: dict[str, Any] = {}
    for example in result["examples"]:
        if example["pictures"]:
            first.setdefault(example["type"], example)
    stills = [e for e in first.values() if e["modality"] != "video"]
    while len(stills) > 8:  # room for eight: of the commonest modality the easiest types, which come first, give way
        kinds = Counter(e["modality"] for e in stills)
        stills.remove(next(e for e in stills if e["modality"] == kinds.most_common(1)[0][0]))
    clips = [e for e in first.values() if e["modality"] == "video"][:2]
    gap, width = 10, 140
    for number, example in enumerate(stills):
        card(sheet, example, run, 24 + number % 4 * (width + gap), 82 + number // 4 * 206, width, 132)
    for number, example in enumerate(clips):
        card(sheet, example, run, 24 + number * 2 * (width + gap), 82 + 2 * 206, 2 * width + gap, 64)


def card(sheet: Sheet, example: dict[str, Any], run: Path, x: float, y: float, w: float, h: float) -> None:
    """Picture, question and answer."""
    sheet.box(x, y, w, h + 64, PAPER, RULE, r=6)
    sheet.box(x + 0.5, y + 0.5, w - 1, h, "#0d0f12", r=5)
    sheet.picture(run / example["pictures"][0], x + 5, y + 5, w - 10, h - 10)
    sheet.text(x + 8, y + h + 9, fit(example["question"].rpartition("\n")[2], w - 12, 9.3), 9.3)
    sheet.mark(x + 8, y + h + 30, example["correct"])
    colour = VERDICTS["learned" if example["correct"] else "not learned"]
    sheet.text(x + 20, y + h + 27, fit(example["answer"] or "(nothing)", w - 26), 10.5, colour)
    note = "" if example["correct"] else f"truth: {example['truth']}"
    sheet.text(x + 8, y + h + 44, fit(note or f"black pixels: {example['blanked_answer'] or '-'}", w - 14), 9.5, SOFT)


def fit(text: str, width: float, size: float = 10.5) -> str:
    """The text, cut where it would leave the card."""
    font = ImageFont.load_default(size=size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def accuracies(sheet: Sheet, result: dict[str, Any]) -> None:
    """A bar for each type, against chance (line) and the blanked control (ring)."""
    left, bar, y = 652.0, 196.0, 84.0
    types = sorted(result["types"].items(), key=lambda item: list(GROUPS).index(item[1]["modality"]))
    for name, entry in types:
        sheet.text(left, y, label(name), 10.5)
        x = left + 92
        sheet.box(x, y + 3, bar, 7, RULE, r=3.5)
        if entry["accuracy"]:
            sheet.box(x, y + 3, max(7, bar * entry["accuracy"]), 7, VERDICTS[entry["verdict"]], r=3.5)
        sheet.line([(x + bar * entry["chance"], y), (x + bar * entry["chance"], y + 13)], INK, 1.2)
        if entry["blanked"]:
            ring(sheet, x + bar * entry["blanked"]["accuracy"], y + 6.5)
        sheet.text(976, y, percent(entry["accuracy"]), 10.5, anchor="ra")
        y += 19.5
    sheet.line([(left + 2, y + 6), (left + 2, y + 18)], INK, 1.2)
    sheet.text(left + 9, y + 6, "chance", 9.5, SOFT)
    ring(sheet, left + 62, y + 12)
    sheet.text(left + 71, y + 6, "the same questions with every pixel black", 9.5, SOFT)


def ring(sheet: Sheet, x: float, y: float) -> None:
    """The blanked control's mark."""
    r, k = 3.2, sheet.k
    sheet.pen.ellipse([(x - r) * k, (y - r) * k, (x + r) * k, (y + r) * k], fill=PAPER, outline=INK, width=k)


def losses(sheet: Sheet, report: dict[str, Any]) -> None:
    """Loss of each modality over the steps, with the stages' boundaries."""
    left, top, width, height = 676.0, 474.0, 300.0, 126.0
    columns, steps = report["curves"]["columns"], report["curves"]["steps"]
    curves = {}
    for name in MODALITIES:
        values = columns.get(f"loss/{name}", ())
        if points := thin([(s, v) for s, v in zip(steps, values, strict=False) if v is not None], 120):
            curves[name] = points
    if not curves:
        return
    last = max(stage["first_step"] + stage["steps"] for stage in report["stages"])
    high = max(value for points in curves.values() for _, value in points)
    for number, stage in enumerate(report["stages"]):
        x = left + width * stage["first_step"] / last
        room = width * stage["steps"] / last
        if number % 2:
            sheet.box(x, top, room, height, "#f3f1ec")
        sheet.text(x + 3, top - 12, fit(stage["name"], room - 4, 9), 9, SOFT)
    for value in range(int(high) + 1):
        y = top + height * (1 - value / high)
        sheet.line([(left, y), (left + width, y)], RULE, 0.6)
        sheet.text(left - 5, y, str(value), 9, SOFT, anchor="rm")
    x = left
    for name, points in curves.items():
        for run in unbroken(points):
            path = [(left + width * step / last, top + height * (1 - value / high)) for step, value in run]
            sheet.line(path, MODALITIES[name], 1.2)
        sheet.line([(x, top + height + 15), (x + 10, top + height + 15)], MODALITIES[name], 2)
        sheet.text(x + 14, top + height + 9, label(name), 9.5, SOFT)
        x += 26 + 5.2 * len(name) + 8
    sheet.text(left, top - 30, "loss over the steps, stage by stage", 10.5)


if __name__ == "__main__":
    sys.exit(main())
