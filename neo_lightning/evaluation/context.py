"""What an evaluation is given, and what it gives back: the door between a finished run and its report.

    EvaluationContext --Evaluation.run--> plain JSON-able mapping --report/ write_report--> report.json, report.html

An evaluation of the user's own is a subclass of `Evaluation`; a recipe names it by its dotted path:

    evaluation:
      - class_path: neo_lightning.evaluation.SceneEvaluation
        init_args: {shards: data/scenes/test/*.tar}
      - class_path: my_package.MyEvaluation

`run` is called in one process, after training and export. The trade-off: a large sharded model is evaluated from its
checkpoint, on one device. `scores` is called while training, on all ranks, which answer together (`answering.Ranks`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from ..answering import Answering, Engine, Ranks
from ..types import Stage

if TYPE_CHECKING:
    from neo_lightning.data.text.tokenizer import Tokenizer

    from ..model.neo import Neo


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """A finished run, as its evaluations and its report see it."""

    model: Neo
    """The trained model, unsharded, on the device where it shall answer."""
    tokenizer: Tokenizer
    run_dir: Path
    """Folder of the run; evaluations may write files below it and name them relative to it."""
    stages: Mapping[str, Stage]
    """The curriculum, in order; the model is asked as in the last one (see `engine`)."""
    export_dir: Path | None = None
    """The exported folder, where the run exports."""
    load_export: Callable[[Path], Engine] | None = None
    """Loads the exported folder again, on the same device: evaluations check that the export answers alike."""
    log_dir: Path | None = None
    """Folder with the CSV logger's metrics.csv."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """That the run was trained on."""
    title: str = "run"
    """The run's name."""
    summary: str = ""
    """One paragraph about the run for people: the recipe's purpose."""
    seed: int | None = None
    command: str = ""
    """Command line that repeats the run."""
    wall_seconds: Mapping[str, float] = field(default_factory=dict)
    """Phase of the run (`data`, `training`, `export`, ...) -> seconds of wall time."""
    skipped: Sequence[tuple[str, str]] = ()
    """(`source/key`, reason) of the samples left out of the training."""

    @property
    def engine(self) -> Engine:
        """The trained model, asked as in its last stage."""
        return Engine(self.model, self.tokenizer, Answering.of_stage(list(self.stages.values())[-1]))


class Evaluation(ABC):
    """Questions put to a model. Subclass it, and name the subclass in a recipe by its dotted path."""

    name: str
    """Key of this evaluation's result in report.json; unique among a recipe's evaluations."""
    every_n_steps: int = 0
    """Steps between two askings while training; 0: none."""
    at: Literal["end", "stage_end"] = "end"
    """`stage_end` asks at the end of each stage as well."""

    @property
    def while_training(self) -> bool:
        """Whether `scores` is called."""
        return self.every_n_steps > 0 or self.at == "stage_end"

    def check(self) -> None:  # noqa: B027 - having nothing to check is the usual case
        """Called before training: raise here (a ValueError) what would otherwise be found when the run is over."""

    def size(self) -> int | None:
        """Questions that `scores` puts, for an estimate of what they cost; None: it does not say."""
        return None

    def scores(self, engine: Engine, ranks: Ranks) -> Mapping[str, float]:
        """Scores of the model as it is now, the overall one first; the same on all ranks, which all call this.

        The engine steps in all ranks together: deal the questions by `ranks.deal`. A recipe that asks while training
        an evaluation which does not define this is refused before the first step.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define `scores`")

    @abstractmethod
    def run(self, context: EvaluationContext) -> Mapping[str, Any]:
        """Evaluate and return a JSON-able mapping.

        The report shows the mapping's scalars in a table, and a scene evaluation's result in full. The key `failures`
        (list of str), where present, names what must not happen, such as an export that answers differently. A list of
        `Example` under the key `examples` is drawn by the report.
        """
