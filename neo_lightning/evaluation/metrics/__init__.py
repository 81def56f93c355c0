"""Metrics of answers, all torchmetrics.

exact_match.py  counts per question type and the verdict on each: what drawn scenes are scored by
grades.py       a grade in [0, 1] for each answer and scores made of them: what benchmarks are scored by
reading.py      free text -> the letter, number or word that it means
interval.py     95% intervals
choice.py  yes_no.py  text.py  vqa.py  number.py  judged.py      the metrics by the form of the answer
"""

from .choice import ChanceAdjustedAccuracy, ChoiceAccuracy, CircularAccuracy, FlipCircularAccuracy
from .exact_match import EXACT_MATCH_LAYOUT, RULE, ExactMatch, Score, exact_match, verdict
from .grades import GradeMetric
from .interval import paired_difference, wilson_interval
from .judged import JudgedScore
from .number import MeanRelativeAccuracy, SparAccuracy, TypeMean
from .text import ANLS, ContainsAccuracy, ExactAnswer, RelaxedAccuracy
from .vqa import VQAAccuracy
from .yes_no import HallusionAccuracy, YesNoF1

METRICS: dict[str, type[GradeMetric]] = {
    "choice": ChoiceAccuracy,
    "circular": CircularAccuracy,
    "flip_circular": FlipCircularAccuracy,
    "chance_adjusted": ChanceAdjustedAccuracy,
    "yes_no": YesNoF1,
    "hallusion": HallusionAccuracy,
    "exact": ExactAnswer,
    "contains": ContainsAccuracy,
    "anls": ANLS,
    "relaxed": RelaxedAccuracy,
    "vqa": VQAAccuracy,
    "mra": MeanRelativeAccuracy,
    "vsi": TypeMean,
    "spar": SparAccuracy,
    "judged": JudgedScore,
}
"""Name, as in a `Benchmark` and behind `--metric` -> metric."""

__all__ = [
    "ANLS",
    "EXACT_MATCH_LAYOUT",
    "METRICS",
    "RULE",
    "ChanceAdjustedAccuracy",
    "ChoiceAccuracy",
    "CircularAccuracy",
    "ContainsAccuracy",
    "ExactAnswer",
    "ExactMatch",
    "FlipCircularAccuracy",
    "GradeMetric",
    "HallusionAccuracy",
    "JudgedScore",
    "MeanRelativeAccuracy",
    "RelaxedAccuracy",
    "Score",
    "SparAccuracy",
    "TypeMean",
    "VQAAccuracy",
    "YesNoF1",
    "exact_match",
    "paired_difference",
    "verdict",
    "wilson_interval",
]
