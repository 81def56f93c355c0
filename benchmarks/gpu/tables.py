"""Markdown tables in what a benchmark printed (`timing.print_table`) -> plain lists; the rest is passed over."""

from __future__ import annotations

from typing import Any


def tables_of(printed: str) -> list[dict[str, Any]]:
    """`{"title", "head", "rows"}` of each table, whole or cut off; the title is the last line of text above it."""
    found: list[dict[str, Any]] = []
    title, inside = "", False
    for line in printed.splitlines():
        if not line.startswith("|"):
            inside, title = False, line.strip() or title
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not inside:
            found.append({"title": title, "head": cells, "rows": []})
            inside = True
        elif set(line) - set("|-"):
            found[-1]["rows"].append(cells)
    return found
