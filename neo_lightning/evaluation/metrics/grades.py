"""What all metrics of benchmarks share: a grade in [0, 1] for each answer, and scores made of the grades.

A metric says how one answer is graded (`grade`), by which numbers grades belong together (`marks`), and what the scores
are (`scores`). Grades are kept one by one, so that an interval can be had by resampling and two models can be compared
question by question; a benchmark's largest sets have some ten thousand.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from ..item import Item
from .interval import bootstrap_interval, bootstrap_mean, wilson_interval

_APART = 0x61C8864680B583EB
"""An odd number: multiples of it tell the copies of a resampled group apart."""


def mark_of(text: str) -> int:
    """A name as a number that every process gives it: 63 bits of its SHA-256."""
    return int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest()[:8], "big") >> 1


class GradeMetric(Metric):
    """Grades answers one by one; `compute` gives {name: score in [0, 1]}, the headline first. Subclasses say how."""

    higher_is_better = True
    full_state_update = False
    headline: ClassVar[str] = "accuracy"
    """The score that a table shows."""
    groups: ClassVar[tuple[int, ...]] = ()
    """Columns of the marks that name groups whose grades count together; the first is what is resampled as a whole."""
    grades: Any
    """[N] float64."""
    marked: Any
    """[N, K] int64."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("grades", default=[], dist_reduce_fx="cat")
        self.add_state("marked", default=[], dist_reduce_fx="cat")

    @abstractmethod
    def grade(self, answer: str, item: Item) -> float:
        """How right an answer is, in [0, 1]."""

    def marks(self, answer: str, item: Item) -> tuple[int, ...]:
        """Numbers that `scores` needs beside the grade, equally many for each item."""
        return ()

    def read(self, answer: str, item: Item) -> str:
        """What the metric takes an answer for, for people: the letter, number or word in it; empty if none is found."""
        return answer.strip()

    def scores(self, grades: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """The scores of [N] grades with [N, K] marks, N > 0."""
        return {self.headline: grades.mean()}

    def update(self, answers: Sequence[str], items: Sequence[Item]) -> None:
        """Grade a batch; both have equal lengths."""
        pairs = list(zip(answers, items, strict=True))
        if pairs:
            self.grades.append(torch.tensor([self.grade(*pair) for pair in pairs], dtype=torch.float64))
            self.marked.append(torch.tensor([self.marks(*pair) for pair in pairs], dtype=torch.long))

    def compute(self) -> dict[str, Tensor]:
        """Scores by name, over all processes; nan where nothing was asked."""
        if not len(self.grades):
            return {self.headline: torch.tensor(torch.nan, dtype=torch.float64)}
        return self.scores(*self._all())

    def interval(self) -> tuple[float, float]:
        """95% interval of the headline: Wilson's for a share of right answers, else by resampling."""
        if not len(self.grades):
            return 0.0, 1.0
        grades, marks = self._all()
        if type(self).scores is GradeMetric.scores:
            shares = bool(((grades == 0) | (grades == 1)).all())
            return wilson_interval(int(grades.sum()), len(grades)) if shares else bootstrap_mean(grades.tolist())

        def statistic(rows: Tensor, copies: Tensor) -> float:
            sample = marks[rows]
            for column in self.groups:
                sample[:, column] += copies * _APART
            return float(self.scores(grades[rows], sample)[self.headline])

        units = marks[:, self.groups[0]] if self.groups else torch.arange(len(grades))
        return bootstrap_interval(units, statistic)

    def _all(self) -> tuple[Tensor, Tensor]:
        return dim_zero_cat(self.grades), dim_zero_cat(self.marked)


def all_right(grades: Tensor, groups: Tensor) -> Tensor:
    """[G] float64: 1 for each group of which every grade is 1."""
    _, place = groups.unique(return_inverse=True)
    return torch.ones(int(place.max()) + 1, dtype=torch.float64).scatter_reduce(
        0, place, (grades == 1).double(), "amin"
    )


def mean_by(values: Tensor, groups: Tensor) -> Tensor:
    """[G] float64: the mean of the values of each group, groups in rising order."""
    names, place = groups.unique(return_inverse=True)
    sums = torch.zeros(len(names), dtype=torch.float64).index_add(0, place, values.double())
    return sums / place.bincount()
