"""scores.json -> one HTML file that loads nothing. Everything that a model or a data set wrote is escaped."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from neo_lightning.evaluation.benchmarks import GROUPS
from neo_lightning.evaluation.compare import Compared, Other
from neo_lightning.evaluation.running.score import all_of
from neo_lightning.evaluation.words import count
from neo_lightning.report.charts import accuracy_bar
from neo_lightning.report.frame import document
from neo_lightning.report.inspect.words import plain, visible
from neo_lightning.report.style import CSS

Result = Mapping[str, Any]

_STYLE = """
.card p.asked { white-space: pre-line; max-height: 15em; overflow: auto; }
.said p.answer { white-space: pre-line; max-height: 12em; overflow: auto; }
.shown img { image-rendering: auto; }
.scores .chance { display: none; }
details { margin: .6rem 0; } summary { cursor: pointer; }
.above { color: var(--learned); } .below { color: var(--not); }
"""


def render_scores(scores: Result, folder: Path, other: Other | None = None, compared: Sequence[Compared] = ()) -> str:
    """The page's text.

    Args:
        scores: content of scores.json.
        folder: its folder; pictures lie in it.
        other, compared: the model that this one is set beside.
    """
    results = scores["benchmarks"]
    questions = sum(result["questions"] for result in results.values())
    body = [
        f'<p class="kicker">Scores of {plain(scores["name"])}</p>',
        f"<h1>{len(results)} benchmark{'s' if len(results) > 1 else ''}, {count(questions)} questions</h1>",
        '<p class="lead">Every score with its 95% interval: what it might have been, had other questions of the '
        "same kind been asked. It says nothing of prompts, budgets and decoding, which are below.</p>",
        *(f'<p class="alarm">{plain(line)}</p>' for line in all_of(results.values())),
        _table(results),
        _beside(compared, results, other) if other is not None else "",
        *(_benchmark(name, result, folder) for name, result in results.items()),
        "<footer>All figures of this page lie in scores.json beside it, every answer in graded.jsonl of its benchmark."
        "</footer>",
    ]
    return document(f"Scores of {visible(scores['name'])}", "\n".join(part for part in body if part), css=CSS + _STYLE)


def percent(value: float | None) -> str:
    """A share in points with one decimal, as the papers' tables have it."""
    return "–" if value is None else f"{100 * value:.1f}"


def _bar(entry: Result) -> str:
    score, (low, high) = entry["score"], entry["interval"]
    if score is None or low is None or high is None:
        return ""
    clipped = [min(1.0, max(0.0, value)) for value in (score, low, high)]
    return accuracy_bar(clipped[0], (clipped[1], clipped[2]), 0.0, None, "learned")


def _numbers(entry: Result) -> str:
    low, high = entry["interval"]
    return (
        f'<td class="num" data-label="score"><span>{percent(entry["score"])}<small>{percent(low)} to {percent(high)}'
        f'</small></span></td><td class="num" data-label="questions"><span>{entry["questions"]:,}</span></td>'
    )


def _table(results: Result) -> str:
    rows = []
    for group, heading in GROUPS.items():
        members = {name: result for name, result in results.items() if result["group"] == group}
        if members:
            rows.append(f'<tr class="group"><th colspan="4" scope="rowgroup">{heading}</th></tr>')
        for result in members.values():
            rows.append(
                f'<tr><th scope="row">{plain(result["title"])}<small>{plain(result["headline"])}</small></th>'
                f'<td class="bar">{_bar(result)}</td>{_numbers(result)}</tr>'
            )
    head = '<th>benchmark</th><th class="bar"></th><th class="num">score</th><th class="num">questions</th>'
    return f'<h2>Scores</h2><table class="scores"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _beside(compared: Sequence[Compared], results: Result, other: Other) -> str:
    rows, notes = [], []
    for entry in compared:
        title = plain(results[entry.name]["title"])
        paired = "–"
        if entry.paired is not None:
            mean, low, high = entry.paired
            kind = "above" if low > 0 else "below" if high < 0 else ""
            paired = (
                f'<span class="{kind}">{100 * mean:+.1f}</span><small>{100 * low:+.1f} to {100 * high:+.1f}, '
                f"{entry.questions:,} questions</small>"
            )
        rows.append(
            f'<tr><th scope="row">{title}</th><td class="num">{percent(entry.ours)}</td>'
            f'<td class="num">{percent(entry.theirs)}</td><td class="num">{100 * entry.difference:+.1f}</td>'
            f'<td class="num">{paired}</td></tr>'
        )
        lines = "".join(f"<li>{plain(line)}</li>" for line in entry.differs) or "<li>nothing that is known</li>"
        notes.append(f"<details><summary>{title}: what differs in the settings</summary><ul>{lines}</ul></details>")
    heading = f'<h2>Beside {plain(other.name)}</h2><p class="soft">{plain(other.source)}</p>'
    if not rows:
        return f"{heading}<p>No benchmark has a score of both.</p>"
    head = "".join(f'<th class="num">{text}</th>' for text in ("this", plain(other.name), "difference", "paired"))
    return (
        f"{heading}<p>The paired difference is of grades, question by question, with its 95% interval; it can be had "
        "where both answered the same data.</p>"
        f"<table><thead><tr><th>benchmark</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>{''.join(notes)}"
    )


def _benchmark(name: str, result: Result, folder: Path) -> str:
    parts = [f'<h2 id="{plain(name)}">{plain(result["title"])}</h2>', _others(result), _categories(result)]
    cards = "".join(_card(mistake, folder / name) for mistake in result["mistakes"])
    if cards:
        parts.append(
            f'<p class="soft">Answers that are not wholly right, in turns over the categories; at most '
            f'{len(result["mistakes"])} are shown.</p><div class="cards">{cards}</div>'
        )
    parts.append(_settings(result))
    return "".join(parts)


def _others(result: Result) -> str:
    others = [
        f"{plain(name)} {percent(value)}" for name, value in result["scores"].items() if name != result["headline"]
    ]
    return f"<p>{plain(result['headline'])} {percent(result['score'])}{'; ' if others else ''}{', '.join(others)}.</p>"


def _categories(result: Result) -> str:
    rows = "".join(
        f'<tr><th scope="row">{plain(name)}</th><td class="bar">{_bar(entry)}</td>{_numbers(entry)}</tr>'
        for name, entry in result["categories"].items()
    )
    return f'<table class="scores"><tbody>{rows}</tbody></table>' if rows else ""


def _card(mistake: Result, folder: Path) -> str:
    picture = ""
    if mistake.get("picture"):
        data = base64.b64encode((folder / mistake["picture"]).read_bytes()).decode()
        picture = f'<div class="shown"><img alt="" src="data:image/jpeg;base64,{data}"></div>'
    options = "".join(f"<br>{plain(letter)}. {plain(text)}" for letter, text in mistake["options"].items())
    category = f'<p class="task">{plain(mistake["category"])}</p>' if mistake["category"] else ""
    read = f"<small> read as {plain(mistake['read'])}</small>" if mistake["read"] not in ("", mistake["answer"]) else ""
    grade = f" ({percent(mistake['grade'])})" if mistake["grade"] else ""
    return (
        f'<figure class="card">{picture}<figcaption class="said">{category}'
        f'<p class="question asked">{plain(mistake["question"])}{options}</p>'
        f'<p class="wrong answer">✗ {plain(mistake["answer"]) or "(nothing)"}{read}{grade}</p>'
        f"<p>truth: {plain(', '.join(mistake['truth']))}</p></figcaption></figure>"
    )


def _settings(result: Result) -> str:
    rows = {**result["settings"], "versions": result["versions"], "not in the score": result["unread"]["by_reason"]}
    facts = "".join(
        f'<tr><th scope="row">{plain(key)}</th><td>{plain(_words(value))}</td></tr>' for key, value in rows.items()
    )
    return f'<details><summary>Settings</summary><table class="plain facts">{facts}</table></details>'


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_words(part)}" for key, part in value.items()) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
