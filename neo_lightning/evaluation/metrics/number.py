"""Numbers in space: mean relative accuracy, and the two benchmarks that mix it with multiple choice."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..item import Item
from .choice import ChoiceAccuracy
from .grades import GradeMetric, mark_of, mean_by
from .reading import conclusion, number_of

THRESHOLDS = tuple(0.5 + 0.05 * i for i in range(10))
"""0.50, 0.55, ..., 0.95."""


def mean_relative_accuracy(number: float, truth: float) -> float:
    """Share of the thresholds t for which |number - truth| / |truth| <= 1 - t (VSI-Bench, arXiv 2412.14171).

    The paper has < where the benchmark's code has <=; this follows the code. For a truth of 0 the error is absolute.
    """
    error = abs(number - truth) / (abs(truth) or 1.0)
    return sum(error <= 1 - t + 1e-9 for t in THRESHOLDS) / len(THRESHOLDS)


class MeanRelativeAccuracy(GradeMetric):
    """Mean relative accuracy of the number that an answer gives; 0 for an answer without one."""

    headline: ClassVar[str] = "mean relative accuracy"

    def grade(self, answer: str, item: Item) -> float:
        """In [0, 1]."""
        number = number_of(answer)
        return 0.0 if number is None else mean_relative_accuracy(number, truth_of(item))

    def read(self, answer: str, item: Item) -> str:
        """The number."""
        number = number_of(answer)
        return "" if number is None else f"{number:g}"


def truth_of(item: Item) -> float:
    """Raises ValueError: the right answer is no number; names the row."""
    try:
        return float(item.answers[0])
    except ValueError as error:
        raise ValueError(f"{item.where}: the right answer must be a number, found {item.answers[0]!r}") from error


class TypeMean(GradeMetric):
    """VSI-Bench: each question graded by its form, accuracy with options and mean relative accuracy without; the score
    is the mean over question types. The three difficulties of relative direction are one type, their mean.

    The type is an item's first category.
    """

    headline: ClassVar[str] = "mean over types"
    JOINED: ClassVar[tuple[str, ...]] = ("_easy", "_medium", "_hard")

    def __init__(self) -> None:
        super().__init__()
        self.choice, self.number = ChoiceAccuracy(), MeanRelativeAccuracy()

    def grade(self, answer: str, item: Item) -> float:
        """In [0, 1]."""
        return self._by(item).grade(answer, item)

    def read(self, answer: str, item: Item) -> str:
        """The letter or number."""
        return self._by(item).read(answer, item)

    def _by(self, item: Item) -> GradeMetric:
        letter = len(item.answers[0]) == 1 and item.answers[0].isalpha()
        return self.choice if item.options or letter else self.number

    def marks(self, answer: str, item: Item) -> tuple[int, ...]:
        """The type, and the one that it is a difficulty of."""
        name = next(iter(item.categories), "")
        joined = name
        for tail in self.JOINED:
            joined = joined.removesuffix(tail)
        return mark_of(name), mark_of(joined)

    def scores(self, grades: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """The mean over types, and over questions."""
        names, place = marks[:, 0].unique(return_inverse=True)
        joined = torch.zeros_like(names).scatter(0, place, marks[:, 1])
        types = mean_by(mean_by(grades, place), joined)
        return {self.headline: types.mean(), "mean over questions": grades.mean()}


class SparAccuracy(TypeMean):
    """SPAR-Bench (arXiv 2503.22976): as VSI-Bench, with `view_change_infer` graded by its five movements."""

    MOVEMENTS: ClassVar[tuple[tuple[str, str], ...]] = (
        ("move_right", "move_left"),
        ("move_up", "move_down"),
        ("move_forward", "move_backward"),
        ("rotate_right", "rotate_left"),
        ("rotate_up", "rotate_down"),
    )

    def grade(self, answer: str, item: Item) -> float:
        """Of a change of view the mean relative accuracy over the movements, each against its opposite."""
        if "view_change_infer" not in item.categories:
            return super().grade(answer, item)
        said, right = movements(conclusion(answer)), movements(item.answers[0])

        def along(found: dict[str, float], there: str, back: str) -> float:
            return found.get(there, 0.0) - found.get(back, 0.0)

        parts = [mean_relative_accuracy(along(said, *axis), along(right, *axis)) for axis in self.MOVEMENTS]
        return sum(parts) / len(parts)

    def read(self, answer: str, item: Item) -> str:
        """The letter, number or movements."""
        if "view_change_infer" not in item.categories:
            return super().read(answer, item)
        return ",".join(f"{name}:{size:g}" for name, size in movements(conclusion(answer)).items())


def movements(text: str) -> dict[str, float]:
    """`move_right:0.3,rotate_left:15` -> {"move_right": 0.3, "rotate_left": 15}; else is passed over."""
    found = {}
    for part in text.split(","):
        name, colon, size = part.partition(":")
        try:
            found[name.strip()] = float(size) if colon else 0.0
        except ValueError:
            continue
    return found
