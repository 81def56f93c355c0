"""Questions that are answered with yes or no: POPE's F1, and HallusionBench's three accuracies."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from ..item import Item
from .grades import GradeMetric, all_right, mark_of
from .reading import yes_or_no


class _YesNo(GradeMetric):
    def grade(self, answer: str, item: Item) -> float:
        """1 or 0; an answer that says neither or both is wrong."""
        return float(yes_or_no(answer) == truth_of(item))

    def read(self, answer: str, item: Item) -> str:
        """ "yes", "no" or nothing."""
        return yes_or_no(answer) or ""


def truth_of(item: Item) -> str:
    """ "yes" or "no"; HallusionBench's first release has 1 and 0.

    Raises:
        ValueError: the right answer is something else; names the row.
    """
    said = {"1": "yes", "0": "no"}.get(item.answers[0].strip(), item.answers[0].strip().lower().rstrip("."))
    if said not in ("yes", "no"):
        raise ValueError(f"{item.where}: the right answer must be yes or no, found {item.answers[0]!r}")
    return said


class YesNoF1(_YesNo):
    """F1 of "yes" (POPE, arXiv 2305.10355). A question counts once for each of its categories, as in VLMEvalKit."""

    headline: ClassVar[str] = "F1"

    def marks(self, answer: str, item: Item) -> tuple[int, ...]:
        """Is it yes, was yes said, and how often it counts."""
        return int(truth_of(item) == "yes"), int(yes_or_no(answer) == "yes"), max(1, len(item.categories))

    def scores(self, grades: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """F1, accuracy, precision, recall, and the share of questions that are answered with yes."""
        truth, said, weight = marks.double().unbind(1)
        both = (truth * said * weight).sum()
        precision, recall = both / (said * weight).sum().clamp(min=1), both / (truth * weight).sum().clamp(min=1)
        f1 = 2 * both / ((truth + said) * weight).sum().clamp(min=1)
        accuracy, yes = (grades * weight).sum() / weight.sum(), (said * weight).sum() / weight.sum()
        return {self.headline: f1, "accuracy": accuracy, "precision": precision, "recall": recall, "yes": yes}


class HallusionAccuracy(_YesNo):
    """HallusionBench (arXiv 2310.14566): the mean of aAcc, fAcc and qAcc, as VLMEvalKit's tables have it.

    aAcc is of questions, fAcc of figures all of whose questions are right, qAcc of questions that are right for all of
    their figures. A row's `set_id`, `figure_id` and `question_id` are columns, or parts of its index:
    `VD_chart_0_SET_FIGURE_QUESTION`.
    """

    headline: ClassVar[str] = "mean of aAcc, fAcc, qAcc"
    groups: ClassVar[tuple[int, ...]] = (0, 1, 2)

    def marks(self, answer: str, item: Item) -> tuple[int, ...]:
        """The set, the figure, and the question over its figures."""
        names = ("set_id", "figure_id", "question_id")
        parts = item.fields.get("index", item.key).split("_")[3:6]
        found = [item.fields.get(name) or (parts[i] if len(parts) == 3 else "") for i, name in enumerate(names)]
        if not all(found):
            raise ValueError(
                f"{item.where}: HallusionBench needs {', '.join(names)}, or an index with them as its parts 4 to 6"
            )
        topic = item.fields.get("l2-category") or item.fields.get("subcategory", "")
        set_name = f"{topic}_{found[0]}"
        return mark_of(set_name), mark_of(f"figure_{set_name}_{found[1]}"), mark_of(f"question_{set_name}_{found[2]}")

    def scores(self, grades: Tensor, marks: Tensor) -> dict[str, Tensor]:
        """The mean and its three parts."""
        of_all, of_figures, of_questions = grades.mean(), all_right(grades, marks[:, 1]), all_right(grades, marks[:, 2])
        three = {"aAcc": of_all, "fAcc": of_figures.mean(), "qAcc": of_questions.mean()}
        return {self.headline: (three["aAcc"] + three["fAcc"] + three["qAcc"]) / 3, **three}
