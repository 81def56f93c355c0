"""Answers that another model grades: what it is asked, and the mean of its grades (MM-Vet, arXiv 2308.02490)."""

from __future__ import annotations

import re
from typing import ClassVar

from ..item import Item
from .grades import GradeMetric

_GRADE = re.compile(r"(?<![\d.])(?:0(?:\.\d+)?|1(?:\.0+)?)(?![\d.])")


def judge_question(question: str, truth: str, answer: str) -> str:
    """What the judge is asked. The words are this package's own: grades are comparable only with the same judge."""
    return (
        "You grade answers to questions about pictures that you do not see. Compare the answer with the reference and "
        "give a number: 0.0 (wholly wrong), 0.1, 0.2, ... or 1.0 (wholly right).\n"
        "In a reference, <AND> means that all of its parts have to be in the answer, and each that is there counts its "
        "share; <OR> means that one of its parts is enough. Other words for the same thing are as good.\n\n"
        f"Question: {question}\nReference: {truth}\nAnswer: {answer}\n\nReply with the number alone."
    )


def grade_of(reply: str) -> float | None:
    """The number in [0, 1] of a judge's reply; None where there is none."""
    found = _GRADE.findall(reply)
    return float(found[-1]) if found else None


class JudgedScore(GradeMetric):
    """Mean of a judge's grades: an item's `fields["grade"]`, which the runner puts there."""

    headline: ClassVar[str] = "judged score"

    def grade(self, answer: str, item: Item) -> float:
        """In [0, 1].

        Raises:
            ValueError: nobody has graded this answer.
        """
        if (found := grade_of(item.fields.get("grade", ""))) is None:
            raise ValueError(f"{item.where}: no judge has graded this answer")
        return found
