"""What a finished model can do: exact match per question type, and a report for people.

context = EvaluationContext(model=..., tokenizer=..., run_dir=..., stages=...)
results = {evaluation.name: evaluation.run(context) for evaluation in evaluations}
report = write_report(context, results)
"""

from .context import Evaluation, EvaluationContext
from .metrics import ExactMatch, wilson_interval
from .report import write_report
from .scenes import SceneEvaluation

__all__ = [
    "Evaluation",
    "EvaluationContext",
    "ExactMatch",
    "SceneEvaluation",
    "wilson_interval",
    "write_report",
]
