"""Where a run goes on: behind its own last checkpoint, or, the first time, behind one of another run (`--from`).

RUN/checkpoints/step-00000120    own: goes on, with other stages to come or (`--accept-changes`) otherwise from there
--from OTHER/checkpoints/step-N  the recipe begins with the stages that were trained there: goes on behind step N
                                 it has stages of its own: starts at its step 0 with those weights and moments
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import history
from .arguments import ACCEPT
from .changed import changes
from .errors import UserError

if TYPE_CHECKING:
    from .parser import NeoCLI


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a run begins."""

    checkpoint: Path
    step: int
    """The first one that is trained; 0 takes weights and moments alone."""
    news: str
    """For people."""


def goes_on(cli: NeoCLI, checkpoint: Path, step: int, *, accepted: bool) -> str:
    """What a run does otherwise behind its own checkpoint than so far, for people; empty where nothing is.

    Raises:
        UserError: it cannot, or was not said to be accepted.
    """
    folder = Path(cli.settings.dir)
    file = history.recipe_behind(folder, step)
    found = changes(cli.parser, cli.config, file, step)
    ways = (
        f"Or train it as a run of its own, --run.dir=FOLDER (behind this step: and --from {checkpoint}), or name the "
        f"run by its own recipe: {file}"
    )
    if found.over:
        raise UserError(
            f"the run in {folder} has done {step} steps, and of these this cannot be changed any more:\n  "
            f"{_lines(found.over)}\nPut it back. {ways}"
        )
    if found.asked and not accepted:
        ahead = f"\nand of what is to come:\n  {_lines(found.ahead)}" if found.ahead else ""
        raise UserError(
            f"the run in {folder} has done {step} steps, which this recipe would have trained otherwise:\n  "
            f"{_lines(found.asked)}{ahead}\nTo go on with it from here, say {ACCEPT} (once: it is the run's recipe "
            f"from then on, and {folder / 'recipes'} keeps the one of before). {ways}"
        )
    _accept(cli.datamodule, accepted or file is not None)
    return f"from here on with another recipe than so far:\n  {_lines(found.lines)}" if found.lines else ""


def refuse_another(cli: NeoCLI, step: int, *, own: str) -> None:
    """Refuse to call a run finished that another recipe trained.

    Raises:
        UserError: naming each difference; `own` is what makes it a run of its own.
    """
    file = Path(cli.settings.dir) / "recipe.yaml"
    if found := changes(cli.parser, cli.config, file if file.is_file() else None, step).lines:
        raise UserError(
            f"the run in {cli.settings.dir} is finished, and was trained with another recipe:\n  {_lines(found)}\n"
            f"Train this one as a run of its own, --run.{own}, or name the finished one by its own recipe: {file}"
        )


def branched(cli: NeoCLI, total: int) -> Origin | None:
    """Where a run of no checkpoints begins, if that is another run's checkpoint.

    Args:
        cli: the parsed recipe.
        total: steps of its stages.

    Raises:
        UserError: there is no such checkpoint, or nothing is left to do behind it.
    """
    from ..checkpoint import commit
    from .finish import last_checkpoint

    if cli.settings.begins_from is None:
        return None
    try:
        checkpoint = last_checkpoint(Path(cli.settings.begins_from))
    except ValueError as error:
        raise UserError(f"--from: {error}") from error
    step, named = commit.step_of(checkpoint), Path(cli.settings.begins_from)
    run = named if (named / "recipe.yaml").is_file() else checkpoint.parent.parent
    begun, stages = _begun_in(checkpoint, cli.datamodule), list(cli.stages)
    if not set(begun) & set(stages):
        return Origin(
            checkpoint=checkpoint,
            step=0,
            news=f"begins at its step 0 with weights and moments of {checkpoint} (trained there: {', '.join(begun)})",
        )
    if stages[: len(begun)] != begun:
        raise UserError(
            f"--from {checkpoint}: trained there were the stages {', '.join(begun)}. A recipe that begins with these "
            f"goes on behind step {step}, one with none of them starts at its step 0; this one has {', '.join(stages)}"
        )
    if step >= total:
        raise UserError(
            f"--from {checkpoint}: nothing is left to do behind step {step} of {total}. Give the last stage more "
            "steps, or, to start at step 0 with these weights, give the stages names of their own"
        )
    found = changes(cli.parser, cli.config, history.recipe_of(run, step), step)
    if found.over:
        raise UserError(f"--from {checkpoint}: what is over cannot be changed any more:\n  {_lines(found.over)}")
    _accept(cli.datamodule, True)
    said = f", with another recipe than there:\n  {_lines(found.lines)}" if found.lines else ""
    return Origin(checkpoint=checkpoint, step=step, news=f"branches off {checkpoint} behind step {step}{said}")


def _begun_in(checkpoint: Path, datamodule: Any) -> list[str]:
    """Stages of which a checkpoint has done a step; of another data module's only the last."""
    from ..checkpoint.meta import read_meta
    from ..data.trained import begun

    meta = read_meta(checkpoint)
    state = meta.get(type(datamodule).__qualname__) or {}
    return begun(state) or [meta["neo_lightning"]["stage"]]


def _accept(datamodule: Any, accepted: bool) -> None:
    if hasattr(datamodule, "accept_changes"):
        datamodule.accept_changes = accepted


def _lines(lines: Sequence[str]) -> str:
    return "\n  ".join(lines)
