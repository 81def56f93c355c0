"""report.json -> one HTML file that needs nothing else: no script, no font, no picture and no style from outside.

Everything that a model, a data set or a recipe wrote passes through `escape`; the page's content policy forbids loading
and running anything, should that ever fail.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from neo_lightning.evaluation.metrics import EXACT_MATCH_LAYOUT
from neo_lightning.evaluation.words import GROUPS, count, duration, label, listing, percent, points
from neo_lightning.report.attention import MOST
from neo_lightning.report.charts import Band, Line, accuracy_bar, line_chart
from neo_lightning.report.frame import document
from neo_lightning.report.style import CSS

Report = Mapping[str, Any]


def render(report: Report, folder: Path) -> str:
    """The page of a report; `folder` is the run's folder, to which the examples' picture names are relative."""
    scenes = exact_match_results(report)
    others = {name: result for name, result in report["evaluations"].items() if result not in scenes}
    body = [
        f'<p class="kicker">NEO-ov, run {escape(report["title"])}</p>',
        f"<h1>{escape(report['headline'])}</h1>",
        *(f'<p class="lead">{escape(text)}</p>' for text in report["summary"]),
        _alarms(report["failures"]),
        _tiles(report),
    ]
    for result in scenes:
        body += [_scores(result), _examples(result, folder), _heads(result, folder)]
    body += [_other(name, result) for name, result in others.items()]
    body += [_charts(report), _making(report)]
    title = f"{report['title']}: {report['headline']}"
    return document(title, "\n".join(part for part in body if part), css=CSS)


def exact_match_results(report: Report) -> list[Report]:
    """Results of evaluations that count exact matches; the page shows them in full."""
    return [result for result in report["evaluations"].values() if result.get("layout") == EXACT_MATCH_LAYOUT]


def _alarms(failures: Sequence[str]) -> str:
    return "".join(f'<p class="alarm"><b>Failed:</b> {escape(text)}</p>' for text in failures)


def _tiles(report: Report) -> str:
    tiles = [(count(report["model"]["parameters"]), "parameters")]
    if "training" in report["wall_seconds"]:
        tiles.append((duration(report["wall_seconds"]["training"]), "of training"))
    if report["throughput"] is not None:
        tiles.append((count(report["throughput"]), "tokens a second"))
    for result in exact_match_results(report):
        tiles.append((count(sum(entry["total"] for entry in result["types"].values())), "held-out questions"))
        if result["export"]:
            export = result["export"]
            same = "identical" if export["same"] == export["checked"] else f"{export['same']} of {export['checked']}"
            tiles.append((same, "answers after export"))
    cells = "".join(f"<div><b>{escape(figure)}</b><span>{text}</span></div>" for figure, text in tiles)
    return f'<div class="tiles">{cells}</div>'


def _scores(result: Report) -> str:
    """The table of accuracies, grouped by modality, and in words what was not learned."""
    # Of a long question the last line is the one that asks.
    questions = {e["type"]: e["question"].rpartition("\n")[2] for e in reversed(result["examples"])}
    rows = []
    for modality, heading in GROUPS.items():
        members = {name: entry for name, entry in result["types"].items() if entry["modality"] == modality}
        if members:
            rows.append(f'<tr class="group"><th colspan="6" scope="rowgroup">{heading}</th></tr>')
            rows += [_row(name, entry, questions.get(name, "")) for name, entry in members.items()]
    total = sum(entry["total"] for entry in result["types"].values())
    head = "".join(
        f'<th scope="col" class="{kind}">{text}</th>'
        for kind, text in (
            ("", "question type"),
            ("bar", ""),
            ("num", "exact match"),
            ("num", "chance"),
            ("num", "pixels blanked"),
            ("", ""),
        )
    )
    return (
        "<h2>What it learned</h2>"
        f"<p>Exact match on {count(total)} held-out questions; none was trained on. {escape(result['rule'])}</p>"
        f"{_not_learned(result)}"
        '<p class="key">'
        '<span><svg class="learned" width="26" height="12"><rect class="fill" y="2" width="26" height="8" rx="4"/>'
        "</svg>exact match</span>"
        '<span><svg width="26" height="12"><line class="whisker" x2="26" y1="6" y2="6"/></svg>95% interval</span>'
        '<span><svg width="8" height="18"><line class="chance" x1="4" x2="4" y2="18"/></svg>chance: the best guess '
        "without pixels</span>"
        '<span><svg width="12" height="12"><circle class="blanked" cx="6" cy="6" r="4.5"/></svg>control: the same '
        "questions with every pixel black</span></p>"
        f"{_guess(result)}"
        f'<table class="scores"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _row(name: str, entry: Report, question: str) -> str:
    low, high = entry["interval"]
    blanked = entry["blanked"]["accuracy"] if entry["blanked"] else None
    kind = entry["verdict"].split()[0]
    bar = accuracy_bar(entry["accuracy"], (low, high), entry["chance"], blanked, entry["verdict"])
    control = "–" if blanked is None else percent(blanked) + ("" if entry["control_met"] else " !")
    other = f"<small>guess {percent(entry['guess'])}</small>" if entry["guess"] != entry["chance"] else ""
    numbers = (
        ("exact match", f"{percent(entry['accuracy'])}<small>{points(low)} to {percent(high)}</small>"),
        ("chance", percent(entry["chance"]) + other),
        ("blanked", control),
    )
    return (
        f'<tr><th scope="row">{escape(label(name))}<small>{escape(question)}</small></th><td class="bar">{bar}</td>'
        + "".join(f'<td class="num" data-label="{head}"><span>{text}</span></td>' for head, text in numbers)
        + f'<td class="verdict"><span class="pill {kind}">{entry["verdict"]}</span></td></tr>'
    )


def _guess(result: Report) -> str:
    """What `guess` means, where a type's differs from its chance."""
    if all(entry["guess"] == entry["chance"] for entry in result["types"].values()):
        return ""
    return (
        '<p class="soft">Chance knows the wording of the questions only. A <em>guess</em> also sees which answers the '
        "picture offers, but not which of them is asked for; that is what has to be beaten.</p>"
    )


def _not_learned(result: Report) -> str:
    by_verdict: dict[str, list[str]] = {}
    for name, entry in result["types"].items():
        by_verdict.setdefault(entry["verdict"], []).append(f"{label(name)} ({percent(entry['accuracy'])})")
    sentences = []
    if failed := by_verdict.get("not learned"):
        sentences.append(f"<b>Not learned:</b> {escape(listing(failed))}; no better than a guess.")
    if partly := by_verdict.get("partly learned"):
        sentences.append(f"<b>Partly learned:</b> {escape(listing(partly))}; better than a guess, short of the goal.")
    if not sentences:
        sentences.append("Every type was learned.")
    missed = [(name, entry) for name, entry in result["types"].items() if entry["control_met"] is False]
    above = [label(name) for name, entry in missed if entry["blanked"]["accuracy"] > entry["chance"]]
    below = [label(name) for name, entry in missed if entry["blanked"]["accuracy"] < entry["chance"]]
    if missed:
        sentences.append(f"<b>Control missed</b> (marked !). {escape(result['control_rule'])}")
    if above:
        sentences[-1] += f" Above it: {escape(listing(above))}; here the words give the answer away."
    if below:
        sentences[-1] += f" Below it: {escape(listing(below))}; here black pixels get something that is no answer."
    return "".join(f"<p>{sentence}</p>" for sentence in sentences)


def _charts(report: Report) -> str:
    bands = [Band(label=s["name"], start=s["first_step"], stop=s["first_step"] + s["steps"]) for s in report["stages"]]
    charts = []
    for chart in report["charts"]:
        lines = [
            Line(
                name=line["name"],
                points=_points(report["curves"], line["column"]),
                colour=f"var(--{line['colour']})",
            )
            for line in chart["lines"]
        ]
        form = percent if chart["share"] else "{:g}".format
        top = 1.0 if chart["share"] else None
        charts.append(line_chart(chart["title"], lines, bands, unit=chart["unit"], form=form, top=top))
    charts = [chart for chart in charts if chart]
    if not charts:
        return ""
    names = listing([f"{number} {band.label}" for number, band in enumerate(bands, start=1)])
    return (
        "<h2>How the training went</h2>"
        f'<p class="soft">Stages, separated by dashed lines: {escape(names)}.</p>'
        f'<div class="charts">{"".join(charts)}</div>'
    )


def _points(curves: Report, column: str) -> list[tuple[float, float]]:
    values = curves["columns"].get(column, ())
    return [(x, y) for x, y in zip(curves["steps"], values, strict=False) if y is not None]


def _examples(result: Report, folder: Path) -> str:
    pictured = [example for example in result["examples"] if example["pictures"]]
    plain = [example for example in result["examples"] if not example["pictures"]]
    parts = []
    if pictured:
        parts.append(
            "<h2>What it was shown, asked and answered</h2>"
            f'<p class="soft">{escape(result["examples_rule"])} Pictures are what the model saw, after resizing; '
            "a clip is a strip of its frames.</p>"
            f'<div class="cards">{"".join(_card(example, folder) for example in pictured)}</div>'
        )
    if plain:
        rows = "".join(
            f'<tr><th scope="row">{escape(label(example["type"]))}</th><td>{escape(example["question"])}</td>'
            f'<td class="said">{_answer(example)}</td></tr>'
            for example in plain
        )
        parts.append(
            "<h2>Text without pictures</h2>"
            f'<table class="plain"><thead><tr><th>type</th><th>asked</th><th>answer</th></tr></thead>{rows}</table>'
        )
    return "".join(parts)


def _heads(result: Report, folder: Path) -> str:
    """Where heads look, of the examples that have it; reports of earlier versions have none."""
    shown = [example for example in result["examples"] if example.get("heads")]
    if not shown:
        return ""
    figures = "".join(
        f'<figure class="heads">{_image(folder / example["heads"])}<figcaption class="said">'
        f'<p class="task">{escape(label(example["type"]))}</p>'
        f'<p class="question">{escape(example["question"])}</p>{_answer(example)}</figcaption></figure>'
        for example in shown
    )
    return (
        "<h2>Where its heads look</h2>"
        '<p class="soft">Of each head the attention behind which the answer begins: layer.head (the pre-buffer'
        " first), how much of it lies on pictures, and orange where. The brightest place is a head's hardest look, "
        f"however little that is. Of more than {MOST} heads those that look hardest at one place.</p>"
        f'<details><summary>One question of each type</summary><div class="sheets">{figures}</div></details>'
    )


def _image(file: Path) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}">'


def _card(example: Report, folder: Path) -> str:
    images = "".join(_image(folder / name) for name in example["pictures"])
    wide = " wide" if example["modality"] == "video" else ""
    return (
        f'<figure class="card{wide}"><div class="shown">{images}</div><figcaption class="said">'
        f'<p class="task">{escape(label(example["type"]))}</p>'
        f'<p class="question">{escape(example["question"])}</p>{_answer(example)}</figcaption></figure>'
    )


def _answer(example: Report) -> str:
    said = escape(example["answer"]) or "(nothing)"
    if example["correct"]:
        parts = f'<p class="right">✓ {said}</p>'
    else:
        parts = f'<p class="wrong">✗ {said}</p><p>truth: {escape(example["truth"])}</p>'
    if example["blanked_answer"] is not None:
        parts += f"<p><small>with black pixels: {escape(example['blanked_answer']) or '(nothing)'}</small></p>"
    return parts


def _other(name: str, result: Report) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(str(value))}</td></tr>'
        for key, value in result.items()
        if isinstance(value, str | int | float | bool)
    )
    return f'<h2>{escape(name)}</h2><table class="plain">{rows}</table>'


def _making(report: Report) -> str:
    machine, skipped = report["machine"], report["skipped"]
    hardware = [machine["processor"], f"{machine['cores']} cores", f"{machine['memory_gib']} GiB", machine["system"]]
    seconds = dict(report["wall_seconds"])
    seconds |= {"answering": sum(result["seconds"] for result in exact_match_results(report))}
    times = [f"{name} {duration(value)}" for name, value in seconds.items()]
    rows = {
        "seed": report["seed"],
        "machine": ", ".join(hardware),
        "accelerators": listing(machine["accelerators"]) or "none",
        "wall time": ", ".join(times) or "unknown",
        "software": ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        "samples left out": (
            "\n".join(f"{number} × {reason}" for reason, number in list(skipped["by_reason"].items())[:8]) or "none"
        ),
        "made": report["created"],
    }
    stages = "".join(
        f'<tr><th scope="row">{number} {escape(stage["name"])}</th><td class="num">{stage["steps"]:,}</td>'
        f'<td class="num">{stage["packs_per_step"]} × {stage["context"]:,}</td><td class="num">{stage["lr"]:g}</td>'
        f"<td>{escape(', '.join(stage['trains']))}</td><td>{escape(_mixture(stage['mixture']))}</td></tr>"
        for number, stage in enumerate(report["stages"], start=1)
    )
    command = f"<pre>{escape(report['command'])}</pre>" if report["command"] else ""
    facts = "".join(
        f'<tr><th scope="row">{escape(key)}</th><td>{escape(str(value))}</td></tr>' for key, value in rows.items()
    )
    return (
        f"<h2>How it was made</h2>{command}"
        '<table class="plain"><thead><tr><th>stage</th><th class="num">steps</th><th class="num">rows × tokens</th>'
        '<th class="num">peak rate</th><th>trains</th><th>mixture</th></tr></thead>'
        f'{stages}</table><table class="plain">{facts}</table>'
        "<footer>All figures of this page lie in report.json beside it.</footer>"
    )


def _mixture(mixture: Mapping[str, float]) -> str:
    total = sum(mixture.values())
    return ", ".join(f"{name} {percent(weight / total)}" for name, weight in mixture.items())
