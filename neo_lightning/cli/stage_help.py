"""`--stages.help`: every key of a stage, told from the dataclasses that hold them."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from dataclasses import MISSING, fields
from itertools import pairwise
from textwrap import fill
from typing import Any, get_type_hints


def wants_stage_help(arguments: list[str]) -> bool:
    """Print the keys of a stage, if a command line asks for them (`--stages.help`, `--stages.NAME.help`)."""
    if not any(argument.startswith("--stages.") and argument.endswith(".help") for argument in arguments):
        return False
    from ..types import Stage

    print("A stage is `stages: {NAME: {key: value, ...}}`, or --stages.NAME.key=value. Its keys:\n")
    print("\n".join(describe(Stage)))
    return True


def describe(kind: Any, path: str = "") -> Iterator[str]:
    """Two lines or more for each field of a dataclass: name, type and default; what it is. Nested ones are entered."""
    documented, hints = docstrings(kind), get_type_hints(kind)
    for field in fields(kind):
        if hasattr(hints[field.name], "__dataclass_fields__"):
            yield from describe(hints[field.name], f"{path}{field.name}.")
            continue
        needed = field.default is MISSING and field.default_factory is MISSING
        default = field.default if field.default_factory is MISSING else field.default_factory()
        value = "required" if needed else f"default {json.dumps(default)}"
        yield f"  {path}{field.name}: {field.type}, {value}"
        yield fill(documented[field.name], 110, initial_indent="      ", subsequent_indent="      ")


def docstrings(kind: Any) -> dict[str, str]:
    """Field of a dataclass -> the string that stands below it in the source.

    Raises:
        KeyError: a field has none.
    """
    body = ast.parse(inspect.getsource(kind)).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: " ".join(below.value.value.split())
        for node, below in pairwise(body)
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }
