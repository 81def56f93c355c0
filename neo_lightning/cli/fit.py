"""`neo-lightning fit | validate | test | predict`: LightningCLI's own subcommands, for recipes.

They take RECIPE as `run` does, `--key.path=value` and the trainer method's own arguments such as `--ckpt_path`.
`validate`, `test` and `predict` read the run's last committed checkpoint, unless told otherwise, and write nothing into
its folder. `fit` trains from the start, or from a `--ckpt_path`: nothing is resumed, exported or evaluated by itself,
that is `run`.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import parse
from .errors import UserError, describe, refusals, user_errors
from .stage_help import wants_stage_help

if TYPE_CHECKING:
    from .parser import NeoCLI


def main(argv: list[str]) -> int:
    """Run one subcommand; `argv[0]` is its name."""
    command, *rest = argv
    if wants_stage_help(rest):
        return 0
    if not rest or rest[0] in ("-h", "--help"):
        rest = ["finetune_small", "--help"]  # the keys of a recipe are those of its classes
    with ExitStack() as until_the_end:
        with user_errors(f"neo-lightning {command}"):
            arguments = parse(rest)
            from .parser import NeoCLI
            from .together import Start

            cli = NeoCLI(arguments, subcommand=command)
            method = cli.method_arguments()
            if command == "fit":
                start = Start(cli.trainer)
                with start.together("own the folder"):
                    until_the_end.enter_context(cli.ownership())
            else:
                method["ckpt_path"] = weights(cli, method.get("ckpt_path"))
        try:
            cli.start(method)
        except refusals() as error:
            from ..data.facts import RetryError

            if isinstance(error, RetryError) or getattr(cli.model, "report", None) is not None:
                raise
            raise UserError(f"neo-lightning {command}: {describe(error)}") from error  # no step has been done
    return 0


def weights(cli: NeoCLI, given: str | None) -> Path | None:
    """The checkpoint to read: the one given, or the run's last; None where `model.init` brings weights. Says which.

    Raises:
        ValueError: nothing committed lies at the path given.
        UserError: there are no weights but random ones.
    """
    from ..checkpoint import commit
    from .finish import last_checkpoint

    folder, init = Path(cli.settings.dir), getattr(cli.model, "init", None)
    saver = cli.saver
    checkpoints = saver.folder_of(cli.trainer) if saver else folder / "checkpoints"
    found = last_checkpoint(Path(given)) if given not in (None, "last") else commit.latest(checkpoints)
    if found is None and getattr(init, "kind", "scratch") == "scratch":
        raise UserError(
            f"there are no weights: no committed checkpoint in {checkpoints}. Train first (`lightning run "
            f"{cli.files}`), or say --ckpt_path=CHECKPOINT (a run folder, or step-NNNNNNNN in its checkpoints), or "
            "--model.init.kind=released --model.init.folder=MODEL"
        )
    if cli.trainer.is_global_zero:
        origin = f"model.init ({init.kind}, {init.folder}); no checkpoint in {checkpoints}" if found is None else found  # type: ignore[union-attr]
        print(f"weights: {origin}", flush=True)
    return found
