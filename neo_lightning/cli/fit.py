"""`neo-lightning fit | validate | test | predict`: LightningCLI's own subcommands, for recipes.

They take `--config RECIPE` (repeatable), `--key.path=value` and the trainer method's own arguments such as
`--ckpt_path`. Nothing is resumed, exported or evaluated by itself: that is `run`.
"""

from __future__ import annotations

from .arguments import parse
from .errors import user_errors


def main(argv: list[str]) -> int:
    """Run one subcommand; `argv[0]` is its name."""
    command, *rest = argv
    if not rest:
        rest = ["--help"]
    if rest[0] in ("-h", "--help"):
        rest = ["--config", "finetune_small", "--help"]  # the keys of a recipe are those of its classes
    with user_errors(f"neo-lightning {command}"):
        arguments = parse(rest, positional=False)
        from .parser import NeoCLI

    NeoCLI(arguments, subcommand=command)
    return 0
