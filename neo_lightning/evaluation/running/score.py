"""Answers on disk -> a score with its interval, by category, what could not be read by reason, and mistakes to show."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import Any

from ...data.files import replacing
from ..item import Item
from ..metrics import METRICS, GradeMetric
from ..readers import Unread
from .answers import GRADES, read_answers, read_log
from .ask import kind_of
from .job import Job
from .settings import versions

GRADED = "graded.jsonl"
MISTAKES = 24
"""Shown of a benchmark, in turns over its categories."""
_KEPT = 4
"""Of each category, until it is known which are shown."""
_LONGEST = 2000
"""Characters of an answer that is shown."""


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An answer that is not wholly right."""

    item: Item
    answer: str
    read: str
    """What the metric took it for."""
    grade: float


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A benchmark's result, and the mistakes that a page shows."""

    result: dict[str, Any]
    mistakes: list[Mistake] = field(default_factory=list)


def score(job: Job, settings: Mapping[str, Any]) -> Scored:
    """Grade every answer, and write the grades beside the answers.

    Raises:
        ValueError: nothing was answered, or a right answer has the wrong form for the metric.
    """
    benchmark = job.benchmark
    answers = read_answers(job.folder)
    grades = read_log([job.folder / GRADES]) if (job.folder / GRADES).is_file() else {}
    whole = METRICS[benchmark.metric]()
    parts: dict[str, GradeMetric] = {}
    unread: list[Unread] = []
    wrong: dict[str, list[Mistake]] = {}
    file = job.folder / GRADED
    with replacing(file) as copy, copy.open("w", encoding="utf-8", errors="replace") as lines:
        for entry in job.entries():
            entry = _judged(entry, grades) if benchmark.metric == "judged" else entry
            record = answers.get(entry.key, {})
            if isinstance(entry, Unread) or "answer" not in record:
                unread.append(entry if isinstance(entry, Unread) else _unanswered(entry, record))
                continue
            answer = record["answer"]
            for metric in (whole, *(parts.setdefault(name, METRICS[benchmark.metric]()) for name in entry.categories)):
                metric.update([answer], [entry])
            grade, read = whole.grade(answer, entry), whole.read(answer, entry)
            line = {"key": entry.key, "grade": grade, "answer": answer, "read": read, "truth": list(entry.answers)}
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
            kept = wrong.setdefault(next(iter(entry.categories), ""), [])
            if grade < 1 and len(kept) < (_KEPT if entry.categories else MISTAKES):
                kept.append(Mistake(item=entry, answer=answer, read=read, grade=grade))
    if not len(whole.grades):
        first = f"; the first: {unread[0].where}: {unread[0].reason}" if unread else ""
        raise ValueError(f"{benchmark.name}: none of {len(job)} questions could be asked{first}")
    turns = [mistake for turn in zip_longest(*wrong.values()) for mistake in turn if mistake is not None][:MISTAKES]
    reasons = Counter(kind_of(entry.reason) for entry in unread)
    result = {
        "title": benchmark.title or benchmark.name,
        "group": benchmark.group,
        "headline": whole.headline,
        **_summary(whole),
        "rows": sum(len(part) for part in whole.grades) + len(unread),
        "limit": job.limit,
        "categories": {name: _summary(metric) for name, metric in sorted(parts.items())} if len(parts) > 1 else {},
        "unread": {
            "total": len(unread),
            "by_reason": dict(reasons.most_common()),
            "first": [{"where": entry.where, "key": entry.key, "reason": entry.reason} for entry in unread[:20]],
        },
        "settings": dict(settings),
        "versions": versions(),
        "mistakes": [_shown(mistake) for mistake in turns],
    }
    return Scored(result=result, mistakes=turns)


def _summary(metric: GradeMetric) -> dict[str, Any]:
    found = {name: _plain(float(value)) for name, value in metric.compute().items()}
    low, high = metric.interval()
    return {
        "score": found[metric.headline],
        "interval": [_plain(low), _plain(high)],
        "questions": sum(len(part) for part in metric.grades),
        "scores": found,
    }


def _plain(value: float) -> float | None:
    """A number as JSON has it: nan is None. Ten digits: sums over other batches may differ in the last bit."""
    return None if math.isnan(value) else round(value, 10)


def _judged(entry: Item | Unread, grades: Mapping[str, Mapping[str, Any]]) -> Item | Unread:
    """With its grade; a judge whose reply holds none leaves the question out."""
    if isinstance(entry, Unread) or entry.key not in grades:
        return entry
    found = grades[entry.key]
    if found["grade"] is None:
        return Unread(key=entry.key, where=entry.where, reason=f"the judge gave no grade: {found['reply']!r}")
    return replace(entry, fields={**entry.fields, "grade": str(found["grade"])})


def _unanswered(item: Item, record: Mapping[str, Any]) -> Unread:
    return Unread(key=item.key, where=item.where, reason=str(record.get("reason", "was not asked")))


def _shown(mistake: Mistake) -> dict[str, Any]:
    item = mistake.item
    return {
        "key": item.key,
        "category": next(iter(item.categories), ""),
        "question": item.question[:_LONGEST],
        "options": dict(item.options),
        "truth": list(item.answers)[:10],
        "answer": mistake.answer[-_LONGEST:],
        "read": mistake.read[:_LONGEST],
        "grade": _plain(mistake.grade),
    }


def all_of(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """What a person has to know of results beside their numbers: a line for each that is not of the whole data."""
    said = []
    for result in results:
        if result["limit"] is not None and result["limit"] < result["settings"]["data"]["rows"]:
            said.append(f"{result['title']}: the first {result['limit']} of {result['settings']['data']['rows']} rows")
        if total := result["unread"]["total"]:
            reasons = ", ".join(f"{count} {reason}" for reason, count in result["unread"]["by_reason"].items())
            said.append(f"{result['title']}: {total} of {result['rows']} rows are not in the score: {reasons}")
    return said
