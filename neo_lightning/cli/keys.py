"""Refuse mistyped keys at any depth of a recipe, naming file, line and the nearest right key.

    YAML text --compose--> nodes with lines --walk along signatures and type hints--> refusal or nothing

jsonargparse refuses unknown keys as well, but late, without the file, and with no suggestion inside `init_args`. This
walk follows the same rules: a class's parameters are its signature's (through its bases where it takes `**kwargs`), a
dataclass's are its fields, and a mapping with `class_path` describes an object whose `init_args` are that class's.
Types are left to jsonargparse; a value whose type says nothing (`Any`, a plain dict) is not looked into.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import yaml

from .errors import UserError, describe, nearest


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Type hint of a key below which a class's arguments are written directly, without `class_path` (as `trainer:`)."""

    of: Any


def check_recipe(text: str, source: str, roots: Mapping[str, Any]) -> None:
    """Check the keys of one recipe file.

    Args:
        text: the file's YAML.
        source: name of the file, for the message.
        roots: top-level key -> `Arguments`, dataclass or type hint of what stands below it.

    Raises:
        UserError: a key is unknown, or a `class_path` cannot be imported.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if root is None:
        raise UserError(f"{source} is empty")
    if not isinstance(root, yaml.MappingNode):
        raise UserError(f"{source}: expected a mapping of {', '.join(roots)}, got a {root.id}")
    for key, value in root.value:
        _known(key, roots, "", source)
        _walk(value, roots[key.value], key.value, source)


def load_class(path: str) -> Any:
    """Import `package.module.Name`; None for a bare `Name` (LightningCLI finds Lightning's own classes by that).

    Raises:
        UserError: the module or the name in it does not exist.
    """
    module, _, name = path.rpartition(".")
    if not module:
        return None
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        hint = "It is looked for in the working directory and among the installed packages."
        raise UserError(f"cannot import {path!r}: {describe(error)}. {hint}") from error
    if not hasattr(found, name):
        public = [n for n in vars(found) if not n.startswith("_")]
        raise UserError(f"module {module!r} has no {name!r}. {nearest(name, public)}")
    return getattr(found, name)


def parameters(cls: Any) -> dict[str, Any] | None:
    """Parameter name -> type hint of a class or function; None where anything is accepted (`**kwargs` to the end)."""
    chain = [c for c in cls.__mro__ if "__init__" in vars(c)] if inspect.isclass(cls) else [cls]
    found: dict[str, Any] = {}
    open_end = False
    for link in chain:
        function = link.__init__ if inspect.isclass(link) else link
        if function is object.__init__:
            return None if open_end else found
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return None
        hints = _hints(function)
        open_end = False
        for name, parameter in signature.parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:
                open_end = True
            elif name != "self" and parameter.kind is not parameter.VAR_POSITIONAL:
                found.setdefault(name, hints.get(name, Any))
        if not open_end:
            return found
    return None


def _hints(function: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function)
    except (NameError, TypeError, AttributeError):  # names that exist for type checkers only
        return {}


def _known(key: yaml.Node, known: Iterable[str], path: str, source: str) -> None:
    if key.value in known:
        return
    full = f"{path}.{key.value}" if path else str(key.value)
    where = place(source, key)
    raise UserError(f"{where}: unknown key {full!r}. {nearest(str(key.value), known)}")


def place(source: str, node: yaml.Node) -> str:
    """Where a node is: file and line, or the command line's argument."""
    return source if source.startswith("--") else f"{source}, line {node.start_mark.line + 1}"


def scalars(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, yaml.ScalarNode]]:
    """(dotted path, node) of every plain value in a document."""
    if isinstance(node, yaml.ScalarNode):
        yield path, node
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from scalars(item, f"{path}.{index}")
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from scalars(value, f"{path}.{key.value}" if path else str(key.value))


def find_value(sources: Mapping[str, str], key: str, value: str) -> list[str]:
    """The places in which `key` has the plain value `value`, for messages that know no more than these two."""
    return [
        place(source, node)
        for source, text in sources.items()
        for path, node in scalars(yaml.compose(text, Loader=yaml.SafeLoader))
        if path.rpartition(".")[2] == key and node.value == value
    ]


def _walk(node: yaml.Node, hint: Any, path: str, source: str) -> None:
    """Follow a node along its type hint."""
    if isinstance(node, yaml.SequenceNode):
        inner = _item_hint(hint)
        for index, item in enumerate(node.value):
            _walk(item, inner, f"{path}.{index}", source)
        return
    if not isinstance(node, yaml.MappingNode):
        return
    entries = {key.value: (key, value) for key, value in node.value}
    if "class_path" in entries:
        _walk_object(node, entries, path, source)
        return
    for option in _options(hint):
        if isinstance(option, Arguments) or (inspect.isclass(option) and dataclasses.is_dataclass(option)):
            _walk_arguments(node, option.of if isinstance(option, Arguments) else option, path, source)
            return
    value_hint = _value_hint(hint)
    for key, value in node.value:
        _walk(value, value_hint, f"{path}.{key.value}", source)


def _walk_object(node: yaml.MappingNode, entries: dict[str, Any], path: str, source: str) -> None:
    for key, _ in node.value:
        _known(key, ("class_path", "init_args", "dict_kwargs"), path, source)
    class_node = entries["class_path"][1]
    try:
        cls = load_class(class_node.value)
    except UserError as error:
        raise UserError(f"{place(source, class_node)}: {path}.class_path: {error}") from error
    init_args = entries.get("init_args", (None, None))[1]
    if cls is not None and isinstance(init_args, yaml.MappingNode):
        _walk_arguments(init_args, cls, f"{path}.init_args", source)


def _walk_arguments(node: yaml.MappingNode, cls: Any, path: str, source: str) -> None:
    known = parameters(cls)
    if known is None:
        return
    for key, value in node.value:
        _known(key, known, path, source)
        _walk(value, known[key.value], f"{path}.{key.value}", source)


def _options(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union (a lone hint is its own)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(option for part in typing.get_args(hint) for option in _options(part))
    return (hint,)


def _item_hint(hint: Any) -> Any:
    for option in _options(hint):
        origin = typing.get_origin(option)
        if inspect.isclass(origin) and issubclass(origin, Sequence) and typing.get_args(option):
            return typing.get_args(option)[0]
    return Any


def _value_hint(hint: Any) -> Any:
    for option in _options(hint):
        origin = typing.get_origin(option)
        if inspect.isclass(origin) and issubclass(origin, Mapping) and len(typing.get_args(option)) == 2:
            return typing.get_args(option)[1]
    return Any
