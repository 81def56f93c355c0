"""Pages for people: a run's report, and what the model is given (`inspect/`). Nothing here trains or scores."""

from neo_lightning.report.run import write_report

__all__ = ["write_report"]
