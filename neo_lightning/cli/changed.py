"""What another recipe would have trained otherwise: the one in a run's folder against the one that is asked for now."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from .errors import UserError

WHAT = ("seed_everything", "stages", "model", "data", "trainer.precision", "trainer.limit_train_batches")
"""Keys that decide what is learned."""

HOW = (
    *(f"data.{key}" for key in ("num_workers", "prefetch", "loader_timeout", "validation", "skip")),
    *(f"model.{key}" for key in ("activation_checkpointing", "recomputed_layers", "compile_blocks", "attention")),
    "model.stop_after_skips",
)
"""Keys below them that do not."""


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in a recipe that has a value; a list of plain values is one."""
    if isinstance(node, list) and not any(isinstance(item, dict | list) for item in node):
        node = str(node)
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif node is not None:
        yield path, node


def changes(parser: Any, config: Any, file: Path) -> list[str]:
    """`stages.one.lr: was 0.001, is 0.0001` for each key that decides what is learned and that a run's recipe has not.

    Args:
        parser: the recipe's, which gives both the same defaults.
        config: what it made of the command line.
        file: the recipe that the run was last trained with; without it nothing is known, and nothing said.

    Raises:
        UserError: the file is no recipe.
    """
    if not file.is_file():
        return []
    try:
        old = parser.parse_string(file.read_text(encoding="utf-8"))
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"{file}: what the run was trained with cannot be read, so it is not known: {error}") from error
    was, now = (
        _learned(yaml.safe_load(parser.dump(c, skip_none=False, skip_link_targets=True))) for c in (old, config)
    )
    return [
        f"{key}: was {was.get(key)}, is {now.get(key)}"
        for key in dict.fromkeys([*was, *now])
        if was.get(key) != now.get(key) and not _same_place(was.get(key), now.get(key))
    ]


def _learned(recipe: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in flat(recipe) if _below(key, WHAT) and not _below(key, HOW)}
    return found | {"order of the stages": ", ".join(recipe["stages"])}


def _below(key: str, roots: tuple[str, ...]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def _same_place(one: Any, other: Any) -> bool:
    """Whether both are paths of one file or folder."""
    return isinstance(one, str) and isinstance(other, str) and os.path.realpath(one) == os.path.realpath(other)
