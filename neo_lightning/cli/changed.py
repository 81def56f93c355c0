"""What another recipe trains otherwise: the one in a run's folder against the one that is asked for now.

    step               0 ......... done ........ end
    stage              one | two ....            | three
    its keys           over| asked               | ahead

A difference that acts on steps to come only is said and needs no answer: the run is then what this recipe would have
made from the start. By any other the steps that are done would have been different ones, so it is a question. Of a
stage that is over nothing can be changed any more.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import yaml

from ..training.stages import learning_rate
from ..types import Stage
from .errors import UserError

WHAT = ("seed_everything", "stages", "model", "data", "trainer.precision", "trainer.limit_train_batches")
"""Keys that decide what is learned."""

HOW = (
    *(f"data.{key}" for key in ("num_workers", "prefetch", "loader_timeout", "validation", "skip")),
    *(f"model.{key}" for key in ("activation_checkpointing", "recomputed_layers", "compile_blocks", "attention")),
    "model.stop_after_skips",
)
"""Keys below them that do not."""

MADE = ("model.optimizer",)
"""Keys below them by which the steps done have left what another value cannot take: moments."""

ELSEWHERE = ("data.manifest", "data.tokenizer", "data.seed", "data.lanes", "data.balance")
"""Keys below them that the data module compares by what they stand for, and refuses itself."""


def flat(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of everything in a recipe that has a value; a list of plain values is one."""
    if isinstance(node, list) and not any(isinstance(item, dict | list) for item in node):
        node = str(node)
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from flat(value, f"{path}.{key}" if path else str(key))
    elif node is not None:
        yield path, node


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What is otherwise in a recipe that a run goes on by, one line a key."""

    ahead: tuple[str, ...] = ()
    """Acts on steps to come only, or on none."""
    asked: tuple[str, ...] = ()
    """By these the steps that are done would have been others."""
    over: tuple[str, ...] = ()
    """Cannot be any more: of stages that are over."""

    @property
    def lines(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.over, *self.asked, *self.ahead)


def changes(parser: Any, config: Any, file: Path | None, step: int) -> Changes:
    """`stages.one.lr: was 0.001, is 0.0001` for each key that decides what is learned and that a run's recipe has not.

    Args:
        parser: the recipe's, which gives both the same defaults.
        config: what it made of the command line.
        file: the recipe that the run goes on by; without it nothing is known, and nothing said.
        step: optimiser steps done.

    Raises:
        UserError: the file is no recipe.
    """
    if file is None:
        return Changes()
    now = dump(parser, config)
    try:
        if (text := file.read_text(encoding="utf-8")) == now:
            return Changes()
        was = dump(parser, parser.parse_string(text))
    except (UserError, OSError, ValueError) as error:
        raise UserError(f"{file}: what the run was trained with cannot be read, so it is not known: {error}") from error
    old, new = yaml.safe_load(was), yaml.safe_load(now)
    return judged(old, new, step)


def dump(parser: Any, config: Any) -> str:
    """A parsed recipe as YAML, every key of it."""
    return parser.dump(config, skip_none=False, skip_link_targets=True)


def judged(old: dict[str, Any], new: dict[str, Any], step: int) -> Changes:
    """What is otherwise in `new`, by what it does to a run of `step` steps."""
    was, now = _learned(old), _learned(new)
    begun = _begun(old["stages"], step)
    present, found = (begun or [""])[-1], Changes()
    if (first := list(new["stages"])[: len(begun)]) != begun:
        return Changes(over=(f"order of the stages: trained were {', '.join(begun)}; first now: {', '.join(first)}",))
    done = step - sum(old["stages"][name]["steps"] for name in begun[:-1])
    # a stage goes on where it was not at its end, or is to be longer
    open_ = bool(begun) and (done < old["stages"][present]["steps"] or done < new["stages"][present]["steps"])
    for key in dict.fromkeys([*was, *now]):
        if was.get(key) == now.get(key) or _same_place(was.get(key), now.get(key)):
            continue
        line, kind = f"{key}: was {was.get(key)}, is {now.get(key)}", "asked"
        stage = key.split(".")[1] if key.startswith("stages.") else ""
        if key in ELSEWHERE or (stage and stage not in begun):
            kind = "ahead"
        elif key in MADE or (stage and (stage != present or not open_)):
            kind = "over"
        elif key == f"stages.{present}.steps":
            kind, line = _length(line, old["stages"], new["stages"], present, done)
        found = replace(found, **{kind: (*getattr(found, kind), line)})
    orders = [
        ", ".join(name for name in one["stages"] if name in other["stages"]) for one, other in ((old, new), (new, old))
    ]
    if orders[0] != orders[1]:
        found = replace(found, ahead=(*found.ahead, f"order of the stages: was {orders[0]}, is {orders[1]}"))
    return found


def _begun(stages: dict[str, Any], step: int) -> list[str]:
    """Stages of which a step is done."""
    starts = accumulate((stage["steps"] for stage in stages.values()), initial=0)
    return [name for name, start in zip(stages, starts, strict=False) if start < step]


def _length(
    line: str, old: dict[str, Any], new: dict[str, Any], name: str, done: int
) -> tuple[Literal["ahead", "asked", "over"], str]:
    """Of another length of the stage that has begun: what it does, and the line."""
    if new[name]["steps"] < done:
        return "over", f"{line}, and {done} of its steps are done"
    was, now = (
        {name: Stage(**{**_schedule(stages[name]), "mixture": {"any": 1}, "context": 1, "packs_per_step": 1})}
        for stages in (old, new)
    )
    if any(learning_rate(was, step) != learning_rate(now, step) for step in range(done)):
        return "asked", f"{line} (the learning rate follows the length: the {done} steps done had others)"
    return "ahead", line


def _schedule(stage: dict[str, Any]) -> dict[str, Any]:
    return {key: stage[key] for key in ("steps", "lr", "warmup_ratio", "min_lr_ratio")}


def _learned(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in flat(recipe) if _below(key, WHAT) and not _below(key, HOW)}


def _below(key: str, roots: tuple[str, ...]) -> bool:
    return any(key == root or key.startswith(f"{root}.") for root in roots)


def _same_place(one: Any, other: Any) -> bool:
    """Whether both are paths of one file or folder."""
    return isinstance(one, str) and isinstance(other, str) and os.path.realpath(one) == os.path.realpath(other)
