"""What was aimed for on one H100, read off the tables of the parts; no goal without a number that was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rows = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A number in a part's table, and what it should be."""

    what: str
    part: str
    value: Callable[[Rows], float | None]
    """Of the part's rows, each heading -> cell."""
    reached: float
    stretch: float
    unit: str
    least: bool = True
    """The number should be at least so much; else at most."""


def number(cell: str) -> float | None:
    """What a cell says, without its unit."""
    try:
        return float(cell.rstrip("x%").replace(",", ""))
    except ValueError:
        return None


def cell(heading: str, **where: str) -> Callable[[Rows], float | None]:
    """The number under a heading, of the first row whose other cells are these (`_` in a key stands for a blank)."""

    def find(rows: Rows) -> float | None:
        for row in rows:
            if all(row.get(key.replace("_", " ")) == value for key, value in where.items()):
                return number(row.get(heading, ""))
        return None

    return find


def over(heading: str, peer: Mapping[str, str], own: Mapping[str, str]) -> Callable[[Rows], float | None]:
    """A peer's number over ours."""

    def find(rows: Rows) -> float | None:
        theirs, ours = cell(heading, **peer)(rows), cell(heading, **own)(rows)
        return theirs / ours if theirs and ours else None

    return find


def best_flex(rows: Rows) -> float | None:
    """The faster of FlexAttention's two, over ours."""
    found = [cell("time / ours", backend=name)(rows) for name in ("FlexAttention", "FlexAttention, tuned")]
    return min((x for x in found if x), default=None)


def memory_error(rows: Rows) -> float | None:
    """Largest part, in percent, by which a step takes more or less than was expected."""
    pairs = [(number(row["peak MiB"]), number(row["expected MiB"])) for row in rows if row.get("way") == "ours"]
    return max((100 * abs(a / b - 1) for a, b in pairs if a and b), default=None)


def peak_gib(rows: Rows) -> float | None:
    """Of our step, weights and moments (float32, three numbers for each of 2.585 G) included."""
    beyond = cell("peak MiB", way="ours")(rows)
    return beyond / 2**10 + 3 * 4 * 2.585453568e9 / 2**30 if beyond else None


KIT = cell("ours / peer", way="authors' kit")
ATTENTION = over("TFLOP/s", {"backend": "triton"}, {"backend": "causal, 256 wide (torch's FlashAttention)"})
GOALS = (
    Goal(
        what="2B stage 2, 16K: tokens/s against the authors' kit",
        part="step_2",
        value=KIT,
        reached=2.0,
        stretch=2.5,
        unit="x",
    ),
    Goal(what="2B stage 1, 16K: likewise", part="step_1", value=KIT, reached=2.2, stretch=2.7, unit="x"),
    Goal(
        what="MFU, 2B stage 2, 16K image rows",
        part="step_2",
        value=cell("MFU", way="ours"),
        reached=40,
        stretch=46,
        unit="%",
    ),
    Goal(what="2B stage 2, 36K: as the first", part="step_36k", value=KIT, reached=2.0, stretch=2.3, unit="x"),
    Goal(
        what="attention, 16K, against the faster FlexAttention",
        part="attention",
        value=best_flex,
        reached=1.5,
        stretch=2,
        unit="x",
    ),
    Goal(
        what="attention's FLOP/s over FlashAttention's, causal",
        part="attention",
        value=lambda rows: x and 100 * x if (x := ATTENTION(rows)) else None,
        reached=75,
        stretch=90,
        unit="%",
    ),
    Goal(
        what="loss, 16K: memory of all logits over ours",
        part="loss",
        value=cell("memory / ours", way="eager"),
        reached=10,
        stretch=20,
        unit="x",
    ),
    Goal(
        what="loss, 16K: time of all logits over ours",
        part="loss",
        value=cell("time / ours", way="eager"),
        reached=0.91,
        stretch=2,
        unit="x",
    ),
    Goal(
        what="2B stage 2, 36K on one GPU",
        part="step_36k",
        value=peak_gib,
        reached=78,
        stretch=56,
        unit="GiB",
        least=False,
    ),
    Goal(
        what="memory of a step against the formula",
        part="memory",
        value=memory_error,
        reached=10,
        stretch=5,
        unit="% off",
        least=False,
    ),
    Goal(
        what="graphs compiled after the first step",
        part="waits",
        value=cell("how many", what="graphs made later"),
        reached=0,
        stretch=0,
        unit="",
        least=False,
    ),
)


def goals(parts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each goal with what was found: `{"what", "found", "reached", "stretch", "unit", "verdict"}`."""
    rows_of: dict[str, Rows] = {
        part["name"]: [dict(zip(table["head"], row, strict=False)) for table in part["tables"] for row in table["rows"]]
        for part in parts
    }
    return [_judged(goal, goal.value(rows_of.get(goal.part, []))) for goal in GOALS]


def _judged(goal: Goal, found: float | None) -> dict[str, Any]:
    def meets(bound: float) -> bool:
        assert found is not None
        return found >= bound if goal.least else found <= bound

    verdict = "not measured"
    if found is not None:
        verdict = "stretch" if meets(goal.stretch) else "reached" if meets(goal.reached) else "missed"
    sign = "at least" if goal.least else "at most"
    return {
        "what": goal.what,
        "part": goal.part,
        "found": found,
        "aim": f"{sign} {goal.reached:g}",
        "stretch": f"{goal.stretch:g}",
        "unit": goal.unit,
        "verdict": verdict,
    }
