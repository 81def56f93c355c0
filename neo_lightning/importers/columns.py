"""A record's keys: what each is called in whose records, and which of them nobody took.

    column      known keys; `--columns COLUMN=KEY` puts the user's own in their place
    messages    the conversation, a list of turns or of pairs
    prompt, query, response, history    one question and its answer, without a list of turns
    text        a document or a caption

A key is taken by the reader of a record, kept in the sample's `meta`, or counted by name in the import's report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from neo_lightning.importers.error import RecordError

COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation", "texts"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
    "prompt": ("instruction", "query", "prompt", "question", "problem"),
    "query": ("input",),
    "response": ("output", "response", "answer", "completion", "target", "solution"),
    "history": ("history",),
    "text": ("text", "caption"),
    "images": ("image", "images", "image_path", "image_paths"),
    "videos": ("video", "videos", "video_path", "video_paths"),
    "audios": ("audios", "audio", "audio_path", "audio_paths"),
    "files": ("file_name", "file_names"),
    "objects": ("objects",),
    "chosen": ("chosen", "chosen_messages", "chosen_response"),
    "rejected": ("rejected", "rejected_messages", "rejected_response"),
    "kto_tag": ("kto_tag", "label"),
}
"""Column -> the keys that are looked for. Of the keys of one column a record has one."""

TURN_COLUMNS: dict[str, tuple[str, ...]] = {"role": ("role", "from"), "content": ("content", "value")}

ROLES: dict[str, tuple[str, ...]] = {
    "system": ("system", "developer"),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "bot", "model", "chatgpt"),
    "function_call": ("function_call", "tool_call"),
    "tool": ("tool", "observation", "observations", "function", "function_response", "tool_response"),
}
"""Role -> its names; a `function_call` becomes a call of the assistant."""

META = (
    *("id", "_id", "uid", "uuid", "idx", "index", "key", "source", "dataset", "dataset_name", "subset", "split"),
    *("task", "category", "url", "width", "height", "language", "license", "md5", "sha256"),
)
"""Keys that say where a sample comes from, beside all that end in `_id`: kept in its `meta`."""

PREFERENCES = ("refuse", "chosen")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the user says about the records, the same for all of an import."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Column (of COLUMNS or TURN_COLUMNS) -> the key that holds it."""
    roles: Mapping[str, str] = field(default_factory=dict)
    """Name of a role in the records -> a role of ROLES."""
    keep: tuple[str, ...] = ()
    """Further keys to keep in `meta`."""
    preference: str = "refuse"
    """One of PREFERENCES: leave records with chosen and rejected answers out, or take the chosen side."""

    def __post_init__(self) -> None:
        known = (*COLUMNS, *TURN_COLUMNS)
        for what, given, names in (
            ("column", self.columns, known),
            ("role", self.roles.values(), tuple(ROLES)),
            ("preference", [self.preference], PREFERENCES),
        ):
            for name in given:
                if name not in names:
                    raise RecordError(f"unknown {what} {name!r} (known: {', '.join(names)})")

    def keeps(self, path: str, name: str, value: Any) -> bool:
        """Whether a key goes to `meta`: the user says so by its name or path, or it is plain and tells the origin."""
        if path in self.keep or name in self.keep:
            return True
        return (name in META or name.endswith("_id")) and isinstance(value, str | int | float | bool)

    def role(self, name: object) -> str:
        """The role of this name.

        Raises:
            RecordError: nobody knows it.
        """
        if name in self.roles:
            return self.roles[str(name)]
        spelled = str(name).strip().lower().replace("-", "_")
        for role, names in ROLES.items():
            if spelled in names:
                return role
        known = ", ".join(name for names in ROLES.values() for name in names)
        raise RecordError(f"unknown role {name!r} (known: {known}); --roles ROLE={name} says which it is")


class Fields:
    """The keys of one record that have a value; each is taken once."""

    def __init__(self, item: Mapping[str, Any], reading: Reading) -> None:
        self.all = tuple(str(name) for name in item)
        """Every key of the record."""
        self.taken: list[str] = []
        self.reading = reading
        self._left = {str(name): value for name, value in item.items() if value == {} or not empty(value)}

    def key(self, column: str) -> str | None:
        """The key that holds a column, where the record has it.

        Raises:
            RecordError: two keys do.
        """
        found = [name for name in self.names(column) if name in self._left and name not in self._owned(column)]
        if len(found) > 1:
            raise RecordError(
                f"both `{found[0]}` and `{found[1]}` hold the {_SAID.get(column, column)}: say with "
                f"--columns {column}=KEY which one is meant"
            )
        return found[0] if found else None

    def names(self, column: str) -> tuple[str, ...]:
        """The keys that a column may lie under."""
        own = self.reading.columns.get(column)
        return COLUMNS[column] if own is None else (own,)

    def peek(self, column: str) -> Any:
        """A column's value, None where there is none."""
        key = self.key(column)
        return None if key is None else self._left[key]

    def take(self, column: str) -> Any:
        """A column's value, used from here on; None where there is none."""
        key = self.key(column)
        if key is None:
            return None
        self.taken.append(key)
        return self._left.pop(key)

    def drop(self, names: Iterable[str]) -> None:
        """Leave keys out that the user said are not wanted."""
        for name in names:
            self._left.pop(name, None)

    def meta(self) -> dict[str, Any]:
        """What is kept beside the conversation: the record's own `meta`, and plain values that tell its origin.

        Raises:
            RecordError: `meta` is no object.
        """
        own = self._left.pop("meta", {})
        if not isinstance(own, dict):
            raise RecordError("`meta` must be an object")
        wanted = [name for name, value in self._left.items() if self.reading.keeps(name, name, value)]
        return {**{name: self._left.pop(name) for name in wanted}, **own}

    def unused(self) -> list[str]:
        """Keys with a value that nobody took."""
        return [name for name, value in self._left.items() if not empty(value)]

    def _owned(self, column: str) -> set[str]:
        """Keys that the user has given to another column."""
        return {key for other, key in self.reading.columns.items() if other != column and other in COLUMNS}


_SAID = {"messages": "conversation", "images": "images", "prompt": "question", "response": "answer"}


def missing(value: Any) -> bool:
    """Whether there is no value: null, as Parquet fills its structs, or NaN, as pandas writes it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def empty(value: Any) -> bool:
    """Whether a key says nothing: it has no value, or nothing in its text, list or object."""
    return missing(value) or (isinstance(value, str | list | dict) and not value)
