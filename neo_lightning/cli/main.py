"""`neo-lightning` and `lightning`: choose a command, run it, and turn its outcome into an exit status.

Commands are named here and imported only when chosen: Lightning takes seconds to import, and `--help` must not.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from .. import __version__, exits, stopping
from .environment import first_rank, let_segments_grow
from .errors import UserError, nearest
from .on_demand import import_on_demand

COMMANDS = {
    "run": ("run", "train a recipe to the end: stages, final evaluation, export; goes on where it was stopped"),
    "launch": ("launch", "run on several devices or hosts, started again where a rank is lost"),
    "plan": ("plan", "what a recipe will take on given devices: memory by part, tokens/s, days; reads no data"),
    "runs": ("runs", "list the runs below a folder: stage, step, health, how they last ended"),
    "fit": ("fit", "LightningCLI: train only"),
    "validate": ("fit", "LightningCLI: one validation pass"),
    "test": ("fit", "LightningCLI: one test pass"),
    "predict": ("fit", "LightningCLI: one prediction pass"),
    "sweep": ("sweep", "train a recipe in several ways with several seeds, and compare them"),
    "rewind": ("rewind", "take a run back to a checkpoint, and skip packs from there on"),
    "model": ("model", "init | import | export | info | publish: make, convert and describe model folders"),
    "data": ("data", "scenes | import | index | check | plan | stats | inspect: make shards, look at them"),
    "chat": ("chat", "talk to a model folder about text, images and clips"),
    "serve": ("serve", "a model behind OpenAI's chat completions, with a chat page"),
    "eval": ("eval", "score a model on the papers' benchmarks, or on held-out conversations"),
}

STOPPABLE = ("run", "fit", "serve")
"""Commands in which the first Ctrl-C asks to stop, as SIGTERM does."""


def usage() -> str:
    """The top-level help text."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: neo-lightning COMMAND [...]      (`lightning` is the same program)",
            "",
            *lines,
            "",
            "  lightning run demo                            a shipped recipe, or a path to one",
            "  lightning run my.yaml --config more.yaml --stages.sft.lr=1e-5",
            "  lightning chat --model runs/demo/export --image photo.jpg",
            "",
            "options: --help (also after a command), --version, --traceback (show where an error came from)",
            "",
            "exit status:",
            exits.table(),
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command line and return its exit status (`exits.MEANING`)."""
    args = list(sys.argv[1:] if argv is None else argv)
    traceback = "--traceback" in args
    args = [arg for arg in args if arg != "--traceback"]
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] == "--version":
        print(f"neo_lightning {__version__}")
        return 0
    # from here on: a signal that comes while Python imports must not kill the process in the middle of nowhere
    with stopping.listening(interrupts=args[0] in STOPPABLE):
        return _run(args, traceback)


def _run(args: list[str], traceback: bool) -> int:
    command, *rest = args
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # a user's own callbacks, sources and loggers by dotted path
    let_segments_grow(os.environ)
    import_on_demand()
    data = os.environ.get("NEO_DATA", "")
    if data and "://" not in data:
        # manifests count relative paths from their own folder; what a user exports counts from the working directory
        os.environ["NEO_DATA"] = os.path.abspath(os.path.expanduser(data))
    try:
        if command not in COMMANDS:
            raise UserError(f"there is no command {command!r}. {nearest(command, COMMANDS)}")
        module = import_module(f"{__package__}.{COMMANDS[command][0]}")
        return module.main([command, *rest] if COMMANDS[command][0] == "fit" else rest)
    except KeyboardInterrupt:
        return exits.INTERRUPTED
    except (Exception, stopping.Stopped) as error:
        status = exits.status_of(error)
        of_another_rank = hasattr(error, "exit_status")  # which has shown its traceback
        if (status == exits.BUG and not of_another_rank) or (traceback and isinstance(error, Exception)):
            raise
        _tell(error, status)
        return status


def _tell(error: BaseException, status: int) -> None:
    """In one paragraph; of what all ranks are told alike rank 0 tells."""
    if isinstance(error, stopping.Stopped):
        if not error.told and first_rank(os.environ):
            print(f"stopped ({error}): nothing is lost, the same command goes on from there", file=sys.stderr)
    elif not getattr(error, "on_every_rank", False) or first_rank(os.environ):
        advice = "" if status in (exits.USER_ERROR, exits.BUG) else f"\n{exits.MEANING.get(status, '')}"
        print(f"error: {error}{advice}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
