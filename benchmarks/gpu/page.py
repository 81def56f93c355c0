"""The results as a page in the package's style: goals, then part by part what was found. Nothing is loaded by it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from neo_lightning.report.frame import document
from neo_lightning.report.style import CSS

COLOURS = {"stretch": "learned", "reached": "learned", "missed": "not", "not measured": "soft"}


def page(found: Mapping[str, Any]) -> str:
    """HTML of the results as `__main__.py` collects them."""
    parts = found["parts"]
    passed = sum(part["status"] == "passed" for part in parts)
    memory = f", {found['memory_gib']:.0f} GiB" if found["memory_gib"] else ""
    body = [
        '<p class="kicker">neo_lightning on one GPU</p>',
        f"<h1>{passed} of {len(parts)} parts passed</h1>",
        f'<p class="lead">{escape(found["place"])}{memory}; begun {escape(found["begun"])}.</p>',
    ]
    if found["rehearsed"]:
        body.append(
            '<p class="alarm">A rehearsal on a CPU with small inputs: no number here says anything of a GPU.</p>'
        )
    body += ["<h2>Goals, for one H100</h2>", _goals(found["goals"])]
    return document("neo_lightning: bench-gpu", "\n".join([*body, *map(_part, parts)]), css=CSS)


def _goals(goals: list[dict[str, Any]]) -> str:
    lines = []
    for goal in goals:
        value = "" if goal["found"] is None else f"{goal['found']:.3g} {goal['unit']}"
        colour = COLOURS[goal["verdict"]]
        lines.append(
            f"<tr><th>{escape(goal['what'])}<small>{escape(goal['part'])}</small></th>"
            f'<td class="num">{escape(value)}</td><td class="num">{escape(goal["aim"])} {escape(goal["unit"])}</td>'
            f'<td class="num">{escape(goal["stretch"])}</td>'
            f'<td><span class="pill {colour}">{escape(goal["verdict"])}</span></td></tr>'
        )
    head = '<th>goal</th><th class="num">found</th><th class="num">aim</th><th class="num">stretch</th><th></th>'
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _part(part: Mapping[str, Any]) -> str:
    good = part["status"] == "passed"
    out = [
        f"<h2>{escape(part['name'])}</h2>",
        f'<p>{escape(part["claim"])} <span class="pill {"learned" if good else "not"}">{escape(part["status"])}</span> '
        f'<span class="soft">{part["seconds"]:.0f} s</span></p>',
    ]
    out += map(_table, part["tables"])
    if part["printed"] and (not good or not part["tables"]):
        out.append(f"<pre>{escape(chr(10).join(part['printed']))}</pre>")
    return "\n".join(out)


def _table(table: Mapping[str, Any]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table["head"])
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table["rows"])
    title = f'<p class="soft">{escape(table["title"])}</p>'
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
