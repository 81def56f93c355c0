"""The newest checkpoint of a run that is whole: a damaged one is set aside, and the one in front of it taken.

    step-00000120   damaged  -->  damaged-step-00000120, and a line that says why
    step-00000100   whole    -->  the run goes on from here

All ranks decide together, before the process group: each compares its share of the tensors with their checksums. The
price is that a checkpoint is read twice at a start, the second time from the host's memory.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ..checkpoint import commit
from ..checkpoint.shards import check_checkpoint
from .errors import UserError, describe
from .together import Start


def newest_whole(folder: Path, start: Start) -> Path | None:
    """The newest whole checkpoint of a folder, the same on every rank; None of a folder without any.

    Raises:
        UserError: there are some, and none is whole. They stay where they are.
    """
    share = start.share
    damaged: list[tuple[Path, str]] = []
    for path in reversed(commit.committed(folder)):
        problem = _problem(path, share) if share else ""
        if not (problem := start.first(f"verify {path.name}", problem)):
            if start.rank == 0:
                _set_aside(damaged, path)
            return path
        damaged.append((path, problem))
    if damaged:
        listed = "".join(f"\n  {problem}" for _, problem in damaged)
        raise UserError(
            f"no checkpoint in {folder} is whole:{listed}\nTo train from the first step, move them away, or name "
            "another run.dir"
        )
    return None


def _problem(path: Path, share: tuple[int, int]) -> str:
    try:
        check_checkpoint(path, *share)
    except (ValueError, OSError) as error:
        return describe(error)
    return ""


def _set_aside(damaged: list[tuple[Path, str]], whole: Path) -> None:
    for path, problem in damaged:
        aside, lost = commit.set_aside(path), commit.step_of(path) - commit.step_of(whole)
        print(
            f"damaged: {problem}. Going back to {whole.name}: {lost} steps are trained again; kept as {aside}",
            file=sys.stderr,
            flush=True,
        )
