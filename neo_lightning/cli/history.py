"""Which recipe a run was trained by, and when: `recipe.yaml` is the present one, `recipes/` keeps those before it.

    RUN/recipes/until-00000120.yaml     trained the steps before 120
    RUN/recipe.yaml                     trains from there on

Where a run goes on from an earlier checkpoint than its last, the steps behind that one have never been: their recipes
go, and the one that trained up to there ends there.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import yaml

_SAVER = "CommitCheckpoint"
_NAME = re.compile(r"until-(\d+)\.yaml")


def recipe_of(run: Path, step: int) -> Path | None:
    """The recipe by which a run's steps before `step` were last trained; None where there is none."""
    return _first(run, lambda until: until >= step)


def recipe_behind(run: Path, step: int) -> Path | None:
    """The recipe by which a run goes on behind `step` steps unless told otherwise; None where there is none."""
    return _first(run, lambda until: until > step)


def checkpoints_of(run: Path) -> Path:
    """Where a run's checkpoints lie: its recipe may name another folder than its own (`CommitCheckpoint(folder)`)."""
    try:
        text = (run / "recipe.yaml").read_text(encoding="utf-8")
        trainer = yaml.safe_load(text)["trainer"] if _SAVER in text else {"callbacks": None}
        callbacks = [callback for callback in trainer["callbacks"] or () if isinstance(callback, dict)]
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):  # none, or nothing that says it
        return run / "checkpoints"
    savers = [c for c in callbacks if str(c.get("class_path")).rpartition(".")[2] == _SAVER]
    folder = next((saver["init_args"].get("folder") for saver in savers if saver.get("init_args")), None)
    return Path(folder) if folder else run / "checkpoints"


def note(run: Path, step: int, text: str) -> None:
    """The run goes on behind `step` steps by the recipe `text`: keep the one of before, if it is another."""
    from ..data.files import replacing

    before = recipe_of(run, step)
    old = before.read_bytes() if before is not None else b""
    if before is not None and step and old.decode("utf-8", "replace") != text:
        kept = run / "recipes" / f"until-{step:08d}.yaml"
        kept.parent.mkdir(exist_ok=True)
        with replacing(kept) as copy:
            copy.write_bytes(old)
    for until, file in _former(run):
        if until > step:
            file.unlink()
    with replacing(run / "recipe.yaml") as copy:
        copy.write_text(text, encoding="utf-8")


def _former(run: Path) -> list[tuple[int, Path]]:
    """(step, file) of the recipes before the present one, the earliest first."""
    found = ((_NAME.fullmatch(file.name), file) for file in (run / "recipes").glob("until-*.yaml"))
    return sorted((int(match[1]), file) for match, file in found if match)


def _first(run: Path, wanted: Callable[[int], bool]) -> Path | None:
    present = run / "recipe.yaml"
    former = [file for until, file in _former(run) if wanted(until)]
    return former[0] if former else present if present.is_file() else None
