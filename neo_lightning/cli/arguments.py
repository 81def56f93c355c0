"""A command line's files and overrides, before Lightning is imported: composed into one recipe.

lightning run RECIPE [--config MORE.yaml ...] [--key.path=value ...] [--from CHECKPOINT] [--accept-changes]
neo-lightning fit RECIPE [--config MORE.yaml ...] [--key.path=value ...]      (--config RECIPE does as well)
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import recipe as recipes
from .environment import launcher_overrides
from .errors import UserError

ACCEPT = "--accept-changes"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What a command line asks for."""

    files: tuple[Path, ...]
    """Recipe files in the order given; later ones lie on top."""
    sources: dict[str, str]
    """Name of each file, and of the command line, -> its YAML, for messages."""
    recipe: dict[str, Any]
    """The composed recipe with the `--stages...` overrides, interpolations unresolved."""
    overrides: tuple[str, ...]
    """The launcher's decisions, then the remaining arguments, for the LightningCLI parser."""
    accepts_changes: bool = False
    """Whether a run may go on by another recipe than that of the steps done."""


def parse(args: list[str]) -> Arguments:
    """Split a command line (without the command) and compose its recipe.

    Args:
        args: the arguments; the first file may be given without `--config`.

    Raises:
        UserError: no recipe, or a file that does not exist or does not parse.
    """
    names: list[str] = []
    staged: list[tuple[str, str]] = []
    rest: list[str] = []
    queue, accepts = list(args), False
    while queue:
        arg = queue.pop(0)
        flag, equals, value = arg.partition("=")
        if flag in ("--config", "-c", "--from") or flag.startswith("--stages."):
            if not equals:
                if not queue:
                    raise UserError(f"{flag} needs a value")
                value = queue.pop(0)
            if flag in ("--config", "-c"):
                names.append(value)
            elif flag == "--from":
                rest.append(f"--run.begins_from={value}")
            else:
                staged.append((flag[2:], value))
        elif arg == ACCEPT:
            accepts = True
        elif not arg.startswith("-") and not names and not rest:
            names.append(arg)
        else:
            rest.append(arg)
    if not names:
        raise UserError(f"no recipe given. Shipped ones: {', '.join(recipes.shipped('recipes'))}")
    files = tuple(recipes.find(name) for name in names)
    composed: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for path in files:
        text, content = recipes.read(path)
        sources[str(path)] = text
        composed = recipes.merge(composed, content)
    for key, value in staged:
        composed = recipes.override(composed, key, value)
        sources[f"--{key}={value}"] = yaml.safe_dump(recipes.override({}, key, value))
    return Arguments(
        files=files,
        sources=sources,
        recipe=recipes.finish(composed),
        overrides=(*launcher_overrides(os.environ), *rest),
        accepts_changes=accepts,
    )
