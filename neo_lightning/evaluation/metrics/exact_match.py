"""Exact match per question type, its uncertainty, and the rule that decides whether a type was learned.

Comes in: answers, truths and type names, batch by batch. Goes out: counts per type, summed over all processes. Exact
match is harsh (a right answer with one word too many is wrong) and in exchange needs no judge and no tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torchmetrics import Metric

from .interval import wilson_interval

Verdict = Literal["learned", "partly learned", "not learned"]
EXACT_MATCH_LAYOUT = "exact match per type"
"""Marks a result (key `layout`) that holds the fields which the report shows in full; see `scenes`."""


class Score(NamedTuple):
    """Right answers among the questions of one type."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Share of right answers, 0-1; nan where nothing was asked."""
        return self.correct / self.total if self.total else math.nan


class ExactMatch(Metric):
    """Exact match per question type, as integer counts that add up over batches and processes.

    Args:
        types: names of the question types; asking another one is an error.
    """

    higher_is_better = True
    full_state_update = False
    correct: Tensor
    total: Tensor

    def __init__(self, types: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.types = tuple(dict.fromkeys(types))
        for state in ("correct", "total"):
            self.add_state(state, default=torch.zeros(len(self.types), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, answers: Sequence[str], truths: Sequence[str], types: Sequence[str]) -> None:
        """Count one batch; the three lists have equal lengths."""
        for answer, truth, name in zip(answers, truths, types, strict=True):
            if name not in self.types:
                raise ValueError(f"unknown question type {name!r}; this metric counts {', '.join(self.types)}")
            place = self.types.index(name)
            self.total[place] += 1
            self.correct[place] += exact_match(answer, truth)

    def compute(self) -> dict[str, Score]:
        """Counts of every type, over all processes."""
        pairs = zip(self.correct.tolist(), self.total.tolist(), strict=True)
        return {name: Score(correct, total) for name, (correct, total) in zip(self.types, pairs, strict=True)}


def exact_match(answer: str, truth: str) -> bool:
    """Whether two answers are equal, with runs of white space counted as one space and none at the ends."""
    return answer.split() == truth.split()


def verdict(score: Score, *, guess: float, goal: float) -> Verdict:
    """What can be said about a type: see RULE."""
    if wilson_interval(*score)[0] <= guess or not score.total:
        return "not learned"
    return "learned" if score.accuracy >= goal else "partly learned"


RULE = (
    "A question type is learned if its exact match reaches the goal and the lower end of the 95% Wilson interval lies "
    "above what guessing gives. It is partly learned if only the second holds, and not learned otherwise."
)
