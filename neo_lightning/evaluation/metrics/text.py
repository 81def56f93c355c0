"""Short answers in words: exact match, containment, edit distance, and numbers that may be a little off."""

from __future__ import annotations

from typing import ClassVar

from ..item import Item
from .exact_match import exact_match
from .grades import GradeMetric
from .reading import conclusion, marked


def short_answer(answer: str) -> str:
    """What an answer comes to: the marked part, else what stands behind the reasoning."""
    text = conclusion(answer)
    inside = marked(text)
    return text if inside is None else inside


def normal(text: str) -> str:
    """In lower case, runs of white space as one space, no final full stop."""
    return " ".join(text.lower().split()).rstrip(".").rstrip()


class _ShortAnswer(GradeMetric):
    def read(self, answer: str, item: Item) -> str:
        """The short answer."""
        return short_answer(answer)


class ExactAnswer(_ShortAnswer):
    """Share of answers that equal a right one, white space aside; case counts."""

    headline: ClassVar[str] = "exact match"

    def grade(self, answer: str, item: Item) -> float:
        """1 or 0."""
        return float(any(exact_match(short_answer(answer), truth) for truth in item.answers))


class ContainsAccuracy(GradeMetric):
    """Share of answers that contain a right one (OCRBench, arXiv 2305.07895): in lower case, line feeds as spaces.

    Of handwritten formulas spaces do not count, and case does.
    """

    FORMULA: ClassVar[str] = "Handwritten Mathematical Expression Recognition"

    def grade(self, answer: str, item: Item) -> float:
        """1 or 0."""

        def plain(text: str) -> str:
            text = text.strip().replace("\n", " ")
            return text.replace(" ", "") if self.FORMULA in item.categories else text.lower()

        said = plain(answer)
        return float(any(plain(truth) in said for truth in item.answers))


class ANLS(_ShortAnswer):
    """Average normalised Levenshtein similarity (arXiv 1907.00490): the best over the right answers, 0 below 0.5."""

    headline: ClassVar[str] = "ANLS"
    THRESHOLD: ClassVar[float] = 0.5

    def grade(self, answer: str, item: Item) -> float:
        """1 - distance / length of the longer one, without regard to case."""
        said = " ".join(short_answer(answer).lower().split())
        best = max((similarity(said, " ".join(truth.lower().split())) for truth in item.answers), default=0.0)
        return best if best >= self.THRESHOLD else 0.0


def similarity(first: str, second: str) -> float:
    """1 - Levenshtein distance / length of the longer text; 1 for two empty ones."""
    longer = max(len(first), len(second))
    return 1.0 - levenshtein(first, second) / longer if longer else 1.0


def levenshtein(first: str, second: str) -> int:
    """Fewest insertions, deletions and substitutions of single characters that make one text the other."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        corner, row[0] = row[0], i
        for j, b in enumerate(second, start=1):
            corner, row[j] = row[j], min(corner + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1]


class RelaxedAccuracy(_ShortAnswer):
    """Share of answers that equal a right one, numbers within 5% of it (ChartQA, arXiv 2203.10244, section 5.1)."""

    headline: ClassVar[str] = "relaxed accuracy"
    TOLERANCE: ClassVar[float] = 0.05

    def grade(self, answer: str, item: Item) -> float:
        """1 or 0."""
        said = short_answer(answer).strip()
        return float(any(self._same(said, truth.strip()) for truth in item.answers))

    def _same(self, said: str, truth: str) -> bool:
        number, right = _number(said), _number(truth)
        if number is None or not right:
            return said.lower() == truth.lower()
        return abs(number - right) <= self.TOLERANCE * abs(right)


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
