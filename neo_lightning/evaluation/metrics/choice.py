"""Multiple choice: right letters, evaluation in groups (circular, flipped), and accuracy with chance taken off."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..item import Item
from .grades import GradeMetric, all_right, mark_of
from .interval import wilson_interval
from .reading import conclusion, marked, option_of
from .text import normal

CIRCULAR = 1_000_000
"""VLMEvalKit's circular sets: the rotations of a question have its index plus multiples of this."""


class ChoiceAccuracy(GradeMetric):
    """Share of questions whose option is named (`reading.option_of`).

    A question without options (MMMU has some) is right where the answer's conclusion is, or holds, the right words.
    """

    def grade(self, answer: str, item: Item) -> float:
        """1 or 0."""
        if item.options or _is_letter(item.answers):
            return float(option_of(answer, item.options) in item.answers)
        said = _open(answer)
        return float(any(normal(truth) and f" {normal(truth)} " in f" {said} " for truth in item.answers))

    def read(self, answer: str, item: Item) -> str:
        """The letter, or an open answer's words."""
        if item.options or _is_letter(item.answers):
            return option_of(answer, item.options) or ""
        return _open(answer)


class CircularAccuracy(ChoiceAccuracy):
    """Share of questions that are answered rightly in every rotation of their options (MMBench, arXiv 2307.06281).

    Rotations of a question share its index up to multiples of a million, or its `g_index`. Without rotations in the
    data it is the accuracy.
    """

    headline: ClassVar[str] = "circular accuracy"
    groups: ClassVar[tuple[int, ...]] = (0,)

    def marks(self, answer: str, item: Item) -> tuple[int, ...]:
        """The group of rotations."""
        index = item.fields.get("g_index") or item.fields.get("index", item.key)
        return (mark_of(str(int(index) % CIRCULAR) if index.isdecimal() else index),)

    def scores(self, grades: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """Of groups, and of single rows."""
        return {self.headline: all_right(grades, marks[:, 0]).mean(), "accuracy of rows": grades.mean()}

    def interval(self) -> tuple[float, float]:
        """Wilson's, over groups."""
        if not len(self.grades):
            return 0.0, 1.0
        grades, marks = self._all()
        right = all_right(grades, marks[:, 0])
        return wilson_interval(int(right.sum()), len(right))


class FlipCircularAccuracy(CircularAccuracy):
    """3DSRBench (arXiv 2412.07825): share of questions that are answered rightly in every rotation of their options and
    also about the mirrored picture.

    `qid` is the question in 8 characters, with `-flip` behind it where the picture is mirrored, and `-1` where the
    options are turned.
    """

    headline: ClassVar[str] = "flip and circular accuracy"
    groups: ClassVar[tuple[int, ...]] = (0, 1, 2)
    _FLIPPED: ClassVar[str] = "-flip"
    _LENGTH: ClassVar[int] = 8

    def marks(self, answer: str, item: Item) -> tuple[int, ...]:
        """The question; with one picture, all rotations; with one rotation, both pictures."""
        found = item.fields.get("qid", item.key)
        question = found[: self._LENGTH]
        picture = question + (self._FLIPPED if self._FLIPPED in found else "")
        return mark_of(question), mark_of(picture), mark_of(found.replace(self._FLIPPED, "") + " both")

    def scores(self, grades: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """Of questions, with rotations alone, with mirrored pictures alone, and of single rows."""
        names = (self.headline, "circular accuracy", "flip accuracy")
        found = {name: all_right(grades, marks[:, i]).mean() for i, name in enumerate(names)}
        return {**found, "accuracy of rows": grades.mean()}


class ChanceAdjustedAccuracy(ChoiceAccuracy):
    """(sum of X - sum of 1/n) / (N - sum of 1/n) for N questions of n options: 0 for guessing, 1 for all right.

    SITE (arXiv 2505.05456), "CAA". Where the options are not known, n is 4.
    """

    headline: ClassVar[str] = "chance-adjusted accuracy"

    def marks(self, answer: str, item: Item) -> tuple[int, ...]:
        """The number of options."""
        return (len(item.options) or 4,)

    def scores(self, grades: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """With and without chance."""
        chance = (1 / marks[:, 0].double()).sum()
        room = len(grades) - chance
        adjusted = (grades.sum() - chance) / room if room > 0 else torch.tensor(torch.nan, dtype=torch.float64)
        return {self.headline: adjusted, "accuracy": grades.mean()}


def _is_letter(answers: tuple[str, ...]) -> bool:
    return all(len(answer) == 1 and answer.isalpha() and answer.isupper() for answer in answers)


def _open(answer: str) -> str:
    text = conclusion(answer)
    inside = marked(text)
    if inside is None:
        _, found, behind = text.rpartition("ANSWER:")
        inside = behind if found else text
    return normal(inside)
