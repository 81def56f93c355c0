"""Stands in for the installed `neo-lightning`, `lightning` and `python`: the same program, with less to do.

    python program.py ARGUMENTS...      as `neo-lightning ARGUMENTS...`, with what `APPENDED` says behind them

Nothing of a command of the README is changed: the last word on a key counts, so that what is appended makes runs short.
"""

from __future__ import annotations

import os
import sys

SCENES = "--train text=60,image=40,pair=12,multi_image=12,video=4 --held-out 1 --vocab-size 448 --workers 0"
STAGE = "--stages.{name}.steps={steps} --stages.{name}.context=256"
MODEL = (
    "--model.model.vocab_size=448 --model.model.hidden_size=32 --model.model.intermediate_size=48 "
    "--model.model.num_hidden_layers=2 --model.model.extra_num_layers=1 --model.model.num_attention_heads=2 "
    "--model.model.num_key_value_heads=1 --model.model.head_dim=16 --model.model.patch_hidden_size=16"
)
DEMO = " ".join([*(STAGE.format(name=name, steps=3) for name in ("text", "pretrain", "mid", "sft")), MODEL])

APPENDED = {
    ("data", "scenes"): SCENES,
    ("run", "recipes/demo.yaml"): DEMO,
    ("run", "demo"): DEMO,
    ("run", "photos_lora"): "--stages.sft.steps=2",
    ("run", "my_recipe.yaml"): "--stages.one.steps=2",
    ("run", "neo_ov_2b"): "--print_config",  # 128 GPUs: composed and checked, not run
}
"""First words of a command -> what makes it small."""


def smaller(arguments: list[str]) -> list[str]:
    """The arguments of a command, with what makes it small; a branch goes on where it begins, and is short."""
    if "--from" in arguments:
        return arguments
    return arguments + APPENDED.get((*arguments[:2],), "").split()


def main(*arguments: str) -> int:
    """The program's exit status; nobody types anything."""
    from neo_lightning.cli.main import main as program

    with open(os.devnull) as sys.stdin:
        try:
            return program(smaller(list(arguments)))
        except SystemExit as end:  # of argparse, after --help and the like
            return int(end.code or 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
