"""A sweep's outcome -> one HTML page: expectations and what came out, curves with the spread over seeds, costs."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from neo_lightning.evaluation.words import count, duration
from neo_lightning.report.charts import Line, line_chart
from neo_lightning.report.frame import document
from neo_lightning.sweep.definition import Measure
from neo_lightning.sweep.outcome import Outcome
from neo_lightning.sweep.statistics import Difference

_PALETTE = (
    "#2563c9",
    "#c2570c",
    "#1f8a5b",
    "#8b3fb5",
    "#b7791f",
    "#0e7f8c",
    "#c2413b",
    "#6b7280",
    "#94408a",
    "#4d6a00",
)
"""Arms' colours in their order, again from the first where there are more."""
_STRIP, _HALF = 220, 8

CSS = """
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 16px; }
svg .curve { fill: none; stroke-width: 1.9; stroke-linejoin: round; stroke-linecap: round; }
svg .spread { opacity: .14; }
svg .seed { opacity: .75; } svg .censored { fill: none; stroke-width: 1.6; }
svg .mean { stroke: var(--ink); stroke-width: 2; }
svg.strip { display: block; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 8px; }
.agrees { color: var(--learned); } .disagrees { color: var(--not); } .open { color: var(--soft); }
.pill { display: inline-block; border-radius: 99px; padding: 1px 10px; font-size: .82rem; font-weight: 600;
  white-space: nowrap; border: 1.5px solid currentColor; }
.scroll { overflow-x: auto; }
"""


def render(outcome: Outcome) -> str:
    """The page."""
    sweep = outcome.sweep
    done, wanted = len(outcome.runs), len(sweep.arms) * len(sweep.seeds)
    body = [
        f'<p class="kicker">Sweep of {escape(sweep.recipe)}</p>',
        f"<h1>{escape(sweep.name)}</h1>",
        f'<p class="lead">{len(sweep.arms)} arms, {len(sweep.seeds)} seeds, {done} of {wanted} runs. Runs of one seed '
        "share their data and, name by name, their first weights; differences are taken seed by seed.</p>",
        _expected(outcome),
        *(_measure(outcome, measure) for measure in sweep.measures),
        _curves(outcome),
        _costs(outcome),
        _arms(outcome),
    ]
    return document(f"Sweep {sweep.name}", "\n".join(part for part in body if part), css=CSS)


def mean_of(outcome: Outcome, arm: str, measure: Measure) -> str:
    """An arm's mean in words; `>` where a run never reached what was to be reached."""
    found = outcome.numbers(arm, measure)
    if not found:
        return "–"
    censored = any(number.censored for number in found.values())
    return ("> " if censored else "") + _number(fmean(number.value for number in found.values()))


def against(outcome: Outcome, arm: str, measure: Measure) -> tuple[str, str, str]:
    """The difference to the baseline in words: mean, 95% interval, p."""
    if arm == outcome.sweep.baseline:
        return "", "", ""
    return _in_words(outcome.difference(arm, outcome.sweep.baseline, measure))


def seeds_of(outcome: Outcome, arm: str, measure: Measure) -> str:
    """How many of the seeds have a number, and with how many the arm is compared where that is fewer."""
    sweep = outcome.sweep
    numbers = len(outcome.numbers(arm, measure))
    said = f"{numbers} of {len(sweep.seeds)}"
    if arm == sweep.baseline:
        return said
    found = outcome.difference(arm, sweep.baseline, measure)
    pairs = found.pairs if found else 0
    return said if pairs == numbers else f"{said}, {pairs} compared"


def _in_words(found: Difference | None) -> tuple[str, str, str]:
    if found is None:
        return "–", "–", "–"
    interval = "–" if found.pairs < 2 else f"{_signed(found.interval[0])} to {_signed(found.interval[1])}"
    return _signed(found.mean), interval, f"{found.p:.3f}"


def _expected(outcome: Outcome) -> str:
    rows = []
    for verdict in map(outcome.verdict, outcome.sweep.expect):
        said, (mean, interval, p) = verdict.expected, _in_words(verdict.difference)
        because = f"<small>{escape(said.because)}</small>" if said.because else ""
        rows.append(
            f'<tr><th scope="row">{escape(said.better)} better than {escape(said.worse)}{because}</th>'
            f'<td>{escape(said.measure)}</td><td class="num">{mean}</td><td class="num">{interval}</td>'
            f'<td class="num">{p}</td><td class="num">{verdict.difference.pairs if verdict.difference else 0} of '
            f'{len(outcome.sweep.seeds)}</td><td><span class="pill {verdict.said}">{verdict.said}</span></td></tr>'
        )
    if not rows:
        return ""
    return (
        "<h2>Expected before, and what came out</h2>"
        "<p>An expectation agrees, or disagrees, where all seeds have a pair of runs and the 95% interval of the "
        "difference lies on one side of 0; else it is open. p is that of the exact sign-flip test over seeds.</p>"
        + _table(("expected", "measure", "difference", "95% interval", "p", "seeds", ""), rows, numbers=(2, 3, 4, 5))
    )


def _measure(outcome: Outcome, measure: Measure) -> str:
    sweep = outcome.sweep
    values = [number.value for arm in sweep.arms for number in outcome.numbers(arm, measure).values()]
    if not values:
        return f"<h2>{escape(measure.name)}</h2><p>No run logged {escape(measure.column)}.</p>"
    low, high = min(values), max(values)
    rows = []
    for number, arm in enumerate(sweep.arms):
        mean, interval, p = against(outcome, arm, measure)
        swatch = f'<i class="swatch" style="background:{colour_of(number)}"></i>'
        rows.append(
            f'<tr><th scope="row">{swatch}{escape(arm)}</th><td>{_strip(outcome, arm, measure, low, high, number)}</td>'
            f'<td class="num">{mean_of(outcome, arm, measure)}</td><td class="num">{mean or "baseline"}</td>'
            f'<td class="num">{interval}</td><td class="num">{p}</td>'
            f'<td class="num">{seeds_of(outcome, arm, measure)}</td></tr>'
        )
    taken = {
        "last": f"last value of {measure.column}",
        "area": f"mean of {measure.column} over the run's steps",
        "reach": f"steps until {measure.column} reaches {measure.at:g}; a ring: never within the run"
        if measure.at is not None
        else "",
    }[measure.take]
    better = "lower is better" if measure.lower_is_better else "higher is better"
    head = (
        "arm",
        f"{_number(low)} to {_number(high)}, a dot a seed",
        "mean",
        f"– {sweep.baseline}",
        "95%",
        "p",
        "seeds",
    )
    return f"<h2>{escape(measure.name)}</h2><p class='soft'>{escape(taken)}; {better}.</p>" + _table(
        head, rows, numbers=(2, 3, 4, 5, 6)
    )


def _strip(outcome: Outcome, arm: str, measure: Measure, low: float, high: float, number: int) -> str:
    """A dot for each seed between the least and the largest value of all arms, and a line at the mean."""
    found = outcome.numbers(arm, measure)

    def at(value: float) -> float:
        return round(6 + (_STRIP - 12) * ((value - low) / (high - low) if high > low else 0.5), 1)

    dots = []
    for seed, reached in found.items():
        paint = f"stroke:{colour_of(number)}" if reached.censored else f"fill:{colour_of(number)}"
        kind = "seed censored" if reached.censored else "seed"
        title = f"<title>seed {seed}: {_number(reached.value)}</title>"
        dots.append(
            f'<circle class="{kind}" style="{paint}" cx="{at(reached.value)}" cy="{_HALF}" r="4">{title}</circle>'
        )
    if found:
        mean = at(fmean(reached.value for reached in found.values()))
        dots.append(f'<line class="mean" x1="{mean}" x2="{mean}" y1="1" y2="{2 * _HALF - 1}"/>')
    return f'<svg class="strip" width="{_STRIP}" height="{2 * _HALF}" role="img">{"".join(dots)}</svg>'


def _curves(outcome: Outcome) -> str:
    columns = list(dict.fromkeys(measure.column for measure in outcome.sweep.measures))
    charts = []
    for column in columns:
        lines = []
        for number, arm in enumerate(outcome.sweep.arms):
            mean, spread = outcome.curve(arm, column)
            if mean:
                lines.append(Line(name=arm, points=mean, colour=colour_of(number), spread=spread))
        charts.append(line_chart(column, lines, []))
    drawn = "".join(charts)
    if not drawn:
        return ""
    return (
        "<h2>Learning</h2><p class='soft'>Mean over seeds; the band is its 95% interval, from two seeds on.</p>"
        f'<div class="charts">{drawn}</div>'
    )


def _costs(outcome: Outcome) -> str:
    rows = []
    for arm in outcome.sweep.arms:
        cost = outcome.cost(arm)
        if cost is not None:
            cells = (
                count(cost["parameters"]),
                count(cost["tokens"]),
                f"{cost['flops']:.3g}",
                duration(cost["seconds"]),
            )
            rows.append(
                f'<tr><th scope="row">{escape(arm)}</th>'
                + "".join(f'<td class="num">{c}</td>' for c in cells)
                + "</tr>"
            )
    head = ("arm", "parameters", "tokens", "model FLOP", "training")
    return "<h2>Cost of a run</h2>" + _table(head, rows, numbers=(1, 2, 3, 4))


def _arms(outcome: Outcome) -> str:
    sweep = outcome.sweep
    rows = [
        f'<tr><th scope="row">{escape(arm)}</th><td>{escape(_keys(keys)) or "the recipe as it is"}</td></tr>'
        for arm, keys in (*sweep.arms.items(), ("all", sweep.common))
    ]
    return "<h2>Arms</h2>" + _table(("arm", "keys of the recipe"), rows, numbers=())


def _keys(keys: object) -> str:
    return "\n".join(f"{key}: {value}" for key, value in dict(keys).items())  # type: ignore[call-overload]


def _table(head: Sequence[str], rows: Sequence[str], *, numbers: Sequence[int]) -> str:
    cells = "".join(
        f'<th scope="col"{" class=num" if i in numbers else ""}>{escape(text)}</th>' for i, text in enumerate(head)
    )
    body = f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody>"
    return f'<div class="scroll"><table class="plain">{body}</table></div>'


def colour_of(number: int) -> str:
    """Of an arm, by its place in the file."""
    return _PALETTE[number % len(_PALETTE)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return f"{value:+,.0f}" if abs(value) >= 1000 else f"{value:+.3g}"
