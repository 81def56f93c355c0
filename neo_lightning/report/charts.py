"""Lines over steps -> inline SVG, coloured by the page's style sheet.

No plotting library: an SVG with the page's own CSS variables follows light and dark, weighs a few kilobytes, and needs
no script. Long runs are averaged down to a few hundred points, so that a report stays small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

WIDTH, HEIGHT = 460, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 24, 30
POINTS = 240
"""At most this many points are drawn of a line."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve; `points` are (step, value) with rising steps."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    """CSS colour, usually a variable of the page."""
    spread: Sequence[tuple[float, float, float]] = ()
    """(step, low, high) of a band around it."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """One stage on the step axis: [start, stop) and its label."""

    label: str
    start: int
    stop: int


def thin(points: Sequence[tuple[float, float]], most: int = POINTS) -> list[tuple[float, float]]:
    """Average neighbouring finite points so that at most `most` are left."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    size = max(1, math.ceil(len(points) / most))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def unbroken(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Cut a curve where it was not logged for long, as in a stage without this modality."""
    gaps = sorted(after[0] - before[0] for before, after in pairwise(points))
    most = 5 * gaps[len(gaps) // 2] if gaps else 0
    runs: list[list[tuple[float, float]]] = []
    for point in points:
        if runs and point[0] - runs[-1][-1][0] <= most:
            runs[-1].append(point)
        else:
            runs.append([point])
    # A single point is drawn as a line of no length, which the round caps turn into a dot.
    return [run if len(run) > 1 else run * 2 for run in runs]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def line_chart(
    title: str,
    lines: Sequence[Line],
    bands: Sequence[Band],
    *,
    unit: str = "",
    form: Callable[[float], str] = "{:g}".format,
    top: float | None = None,
) -> str:
    """Draw lines over optimiser steps with the stages behind them; an empty string where there is nothing to draw.

    Args:
        unit: stands behind the title.
        form: writes a value of the vertical axis.
        top: upper end of the vertical axis (the largest value if None); the lower end is 0.
    """
    drawn = [(line, thin(line.points)) for line in lines]
    drawn = [(line, points) for line, points in drawn if points]
    if not drawn:
        return ""
    last = max([band.stop for band in bands] + [x for _, points in drawn for x, _ in points] + [1])
    values = [y for _, points in drawn for _, y in points] + [y for line, _ in drawn for _, _, y in line.spread]
    high = top or max(values) * 1.05 or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * x / last
        down = TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(max(y, 0.0), high) / high)
        return round(across, 1), round(down, 1)

    parts = [_stages(bands, place)]
    for y in ticks(0, high):
        across, down = place(0, y)
        parts.append(f'<line class="grid" x1="{across}" x2="{WIDTH - RIGHT}" y1="{down}" y2="{down}"/>')
        parts.append(f'<text class="axis end" x="{LEFT - 6}" y="{down + 4}">{escape(form(y))}</text>')
    for x in ticks(0, last)[1:]:
        across, down = place(x, 0)
        anchor = " end" if across > WIDTH - 30 else " middle"
        parts.append(f'<text class="axis{anchor}" x="{across}" y="{down + 17}">{x:g}</text>')
    parts.append(f'<text class="axis end" x="{LEFT - 6}" y="{HEIGHT - BOTTOM + 17}">step</text>')
    for line, points in drawn:
        if line.spread:
            edge = [(x, y) for x, _, y in line.spread] + [(x, y) for x, y, _ in reversed(line.spread)]
            path = " ".join("{:g},{:g}".format(*place(x, y)) for x, y in edge)
            parts.append(f'<polygon class="spread" style="fill:{line.colour}" points="{path}"/>')
        for run in unbroken(points):
            path = " ".join("{:g},{:g}".format(*place(x, y)) for x, y in run)
            parts.append(f'<polyline class="curve" style="stroke:{line.colour}" points="{path}"/>')
    legend = "".join(
        f'<span><i style="background:{line.colour}"></i>{escape(line.name)}</span>' for line, _ in drawn if line.name
    )
    caption = f"{escape(title)}" + (f" <small>{escape(unit)}</small>" if unit else "")
    return (
        f'<figure class="chart"><figcaption>{caption}<span class="legend">{legend}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg></figure>'
    )


def _stages(bands: Sequence[Band], place: Callable[[float, float], tuple[float, float]]) -> str:
    """Alternating grounds, a line at each boundary, and the label: number and name where the name has room."""
    parts = []
    for number, band in enumerate(bands, start=1):
        left, right = place(band.start, 0)[0], place(band.stop, 0)[0]
        tone = "even" if number % 2 == 0 else "odd"
        parts.append(
            f'<rect class="band {tone}" x="{left}" y="{TOP}" width="{round(right - left, 1)}" '
            f'height="{HEIGHT - TOP - BOTTOM}"/>'
        )
        if number > 1:
            parts.append(f'<line class="boundary" x1="{left}" x2="{left}" y1="6" y2="{HEIGHT - BOTTOM}"/>')
        text = f"{number} {band.label}"
        label = text if right - left > 6.6 * len(text) + 8 else str(number)
        parts.append(f'<text class="stage" x="{left + 4}" y="{TOP - 8}">{escape(label)}</text>')
    return "".join(parts)


def accuracy_bar(
    accuracy: float, interval: tuple[float, float], chance: float, blanked: float | None, verdict: str
) -> str:
    """One horizontal bar, 0-100%: the accuracy with its interval, a line at chance, a ring at the blanked control."""

    def at(share: float) -> str:
        # The bar keeps 1% of free room at both ends, so that marks at 0 and 100% are not cut.
        return f"{1 + 98 * share:.2f}%"

    kind = verdict.split()[0]
    width = f"{98 * accuracy:.2f}%"
    parts = [
        '<rect class="track" x="1%" y="7" width="98%" height="10" rx="5"/>',
        f'<rect class="fill {kind}" x="1%" y="7" width="{width}" height="10" rx="5"/>' if accuracy > 0 else "",
        f'<line class="whisker" x1="{at(interval[0])}" x2="{at(interval[1])}" y1="12" y2="12"/>',
        f'<line class="chance" x1="{at(chance)}" x2="{at(chance)}" y1="2" y2="22"/>',
    ]
    if blanked is not None:
        parts.append(f'<circle class="blanked" cx="{at(blanked)}" cy="12" r="4.5"/>')
    return f'<svg class="bar" width="100%" height="24" aria-hidden="true">{"".join(parts)}</svg>'
