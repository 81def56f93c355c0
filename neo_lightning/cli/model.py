"""`neo-lightning model init | import | export | info`: make, convert and describe model folders.

init      Qwen3 folder (or nothing) + tokenizer -> a NEO folder that a run or `generate` can start from
import    released folder or Hugging Face id    -> the same, checked tensor by tensor
export    a run's training checkpoint           -> a NEO folder in the released layout
info      preset, folder, id or run             -> sizes, parameters, FLOPs
"""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import user_errors


def main(argv: list[str]) -> int:
    """Run one of the model commands."""
    args = _parser().parse_args(argv)
    with user_errors(f"neo-lightning model {args.command}"):
        args.function(args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="neo-lightning model", description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)

    init = commands.add_parser("init", help="make a fresh model folder")
    init.add_argument(
        "--model", default="neo_ov_2b", help="preset, or the folder of a config.json"
    )
    init.add_argument("--qwen3", help="backbone: Qwen3 folder or Hugging Face id; random weights without it")
    init.add_argument("--rule", choices=("smooth", "zero_k"), default="smooth", help="how H/W start in the backbone")
    init.add_argument("--tokenizer", required=True, help="tokenizer folder with NEO's tokens (`data tokenizer`)")
    init.add_argument("--seed", type=int, default=0)
    init.set_defaults(function=_init)

    load = commands.add_parser("import", help="check a released model and write it as a folder")
    load.add_argument("--model", required=True, help="folder or Hugging Face id")
    load.add_argument("--tokenizer", help="tokenizer folder; default the model's own")
    load.set_defaults(function=_import)

    export = commands.add_parser("export", help="turn a run's checkpoint into a model folder")
    export.add_argument("--run", type=Path, required=True, help="run folder, or one of its checkpoints")
    export.add_argument("--tokenizer", required=True, help="tokenizer folder")
    export.set_defaults(function=_export)
    for command in (init, load, export):
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")

    info = commands.add_parser("info", help="describe a model")
    info.add_argument("model", help="preset, model folder, Hugging Face id, or run folder")
    info.add_argument("--context", type=int, default=16384, help="row length for the FLOPs")
    info.set_defaults(function=_info)
    return parser
