"""What a model is asked and how that is scored. Draws nothing (see report/).

context = EvaluationContext(model=..., tokenizer=..., run_dir=..., stages=...)
results = {evaluation.name: evaluation.run(context) for evaluation in evaluations}
report = neo_lightning.report.write_report(context, results)
"""

from .benchmark_evaluation import BenchmarkEvaluation
from .context import Evaluation, EvaluationContext
from .metrics import ExactMatch, wilson_interval
from .scenes import SceneEvaluation

__all__ = [
    "BenchmarkEvaluation",
    "Evaluation",
    "EvaluationContext",
    "ExactMatch",
    "SceneEvaluation",
    "wilson_interval",
]
