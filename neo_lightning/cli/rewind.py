"""`lightning rewind RUN --to STEP [--skip A:B]`: take a run back by hand; the next `lightning run` goes on from there.

Nothing is deleted: later checkpoints are renamed (`rewound-0-step-00000048`), logs are cut when the run goes on, as
after any stop, and what was done is listed in `RUN/rewinds.jsonl` (`training.rewinds`).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .errors import UserError, user_errors
from .history import checkpoints_of
from .options import Options


def main(argv: list[str]) -> int:
    """Rewind; returns the exit status."""
    from ..data.owner import owned

    args = _parser().parse_args(argv)
    run = Path(args.run)
    if not run.is_dir():
        raise UserError(f"{run} is no folder of a run")
    with user_errors(f"cannot rewind {run}"), owned(run / "run.lock", what=f"the run {run}"):
        _rewind(run, args.to, args.skip)
    return 0


def _parser() -> Options:
    parser = Options(prog="lightning rewind", description=__doc__.split("\n\n")[0])
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--to", type=int, required=True, metavar="STEP", help="steps done at a checkpoint of the run")
    parser.add_argument(
        "--skip", type=_range, metavar="A:B", help="packs from A on, up to and without B, are passed over"
    )
    return parser


def _range(text: str) -> tuple[int, int]:
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and int(first) < int(last)):
        raise argparse.ArgumentTypeError(f"expected A:B with A < B, two numbers of packs, got {text!r}")
    return int(first), int(last)


def _rewind(run: Path, step: int, skip: tuple[int, int] | None) -> None:
    from ..checkpoint import commit
    from ..training import rewinds

    checkpoints = checkpoints_of(run)
    rewinds.settle(run, checkpoints)
    there = commit.committed(checkpoints)
    chosen = [path for path in there if commit.step_of(path) == step]
    if not chosen:
        known = ", ".join(str(commit.step_of(path)) for path in there) or "none at all"
        raise UserError(f"no checkpoint of {run} is of step {step}; there are: {known}")
    to = chosen[-1]
    next_pack = _next_pack(to)
    if skip is not None and next_pack is not None and skip[0] < next_pack:
        raise UserError(
            f"pack {skip[0]} was trained on already at step {step}, which goes on with pack {next_pack}: skip from "
            "there, or go back further"
        )
    if to == there[-1] and skip is None:
        raise UserError(f"{run} goes on from step {step} already, and there is nothing to skip")
    rewinds.go_back(run, checkpoints, to, skip=skip, why="by hand: lightning rewind")
    later = there[there.index(to) + 1 :]
    print(f"{run} goes on from step {step}; {len(later)} later checkpoint(s) are kept as {checkpoints}/rewound-*")
    if skip is not None:
        print(f"packs {skip[0]} to {skip[1] - 1} will be skipped")


def _next_pack(checkpoint: Path) -> int | None:
    """Number of the pack that a checkpoint goes on with, where its data module has such."""
    from ..checkpoint.meta import read_meta

    meta = read_meta(checkpoint)
    states: list[Any] = [state for state in meta.values() if isinstance(state, dict) and "pack" in state]
    return int(states[0]["pack"]) if states else None
