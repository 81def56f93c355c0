"""What the end of a run hands to its evaluations and its report."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..data.text.tokenizer import Tokenizer
from ..evaluation.context import EvaluationContext
from . import finish
from . import recipe as recipes
from .errors import UserError
from .preflight import tokenizer_folder

if TYPE_CHECKING:
    from .run import Run


def context_of(run: Run) -> EvaluationContext:
    """The finished model with its run."""
    assert run.checkpoint is not None
    asked = bool(run.cli.evaluation)  # a report of curves alone needs no weights, only their number
    dtype, device = dtype_of(run), run.cli.trainer.strategy.root_device
    model = finish.restore(run.checkpoint, dtype=dtype, device=device if asked else "meta")
    return EvaluationContext(
        model=model,
        tokenizer=Tokenizer.load(tokenizer_of(run), model.config.rule),
        device=device,
        run_dir=run.folder,
        stages=run.cli.stages,
        export_dir=run.export_dir,
        load_export=finish.load_export(dtype, device) if run.export_dir else None,
        log_dir=run.folder,
        title=run.cli.settings.name,
        summary=_summary(run),
        seed=run.cli.config.get("seed_everything"),
        command=run.command,
        wall_seconds=run.times.seconds,
        skipped=finish.left_out(run.folder),
    )


def dtype_of(run: Run) -> torch.dtype:
    """What the model is exported and evaluated in: what it computed in while it was trained."""
    return torch.bfloat16 if str(run.cli.trainer.precision).startswith("bf16") else torch.float32


def tokenizer_of(run: Run) -> str:
    """The data's tokenizer.

    Raises:
        UserError: the data module names none.
    """
    folder = tokenizer_folder(run.cli.datamodule)
    if folder is None:
        raise UserError("the data module names no tokenizer (`tokenizer_path`), which export and evaluation need")
    return folder


def _summary(run: Run) -> str:
    purpose = recipes.purpose(run.arguments.sources[str(run.arguments.files[0])])
    return purpose if run.ended.step is None else f"{purpose} The run {run.length}.".strip()
