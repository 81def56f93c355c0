"""The common form of one record, whatever it was read from, before its media are looked up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class RecordError(ValueError):
    """This record, or the input as a whole, cannot be imported; the message is the reason."""


Medium = str | bytes
"""A file name inside the media folder, or the encoded file itself."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A conversation in the shards' own JSON form, and its media."""

    tree: dict[str, Any]
    """`{"conversations": ...}`, `{"messages": ...}` or `{"text": ...}`."""
    images: list[Medium] = field(default_factory=list)
    """In the order in which the text shows the images."""
    videos: list[Medium] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    """Keys and parts that are neither learned nor kept in `meta`, which the report counts."""


def medium_list(item: dict[str, Any], *names: str) -> list[Medium]:
    """Media under the first of these keys that is there: one or a list of names, bytes, or `{"bytes", "path"}`."""
    present = [name for name in names if item.get(name) not in (None, "", [])]
    if len(present) > 1:
        raise RecordError(f"both `{present[0]}` and `{present[1]}` name media")
    if not present:
        return []
    value = item[present[0]]
    return [_medium(one, present[0]) for one in (value if isinstance(value, list) else [value])]


def _medium(value: Any, name: str) -> Medium:
    if isinstance(value, dict):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if not isinstance(value, str | bytes):
        raise RecordError(f"`{name}` must be a path or a list of paths (in Parquet: bytes, or a struct of both)")
    return value


def record_meta(item: dict[str, Any]) -> dict[str, Any]:
    """The record's own `meta`, and its `id`."""
    meta = item.get("meta") or {}
    if not isinstance(meta, dict):
        raise RecordError("`meta` must be an object")
    return {**({"id": item["id"]} if "id" in item else {}), **meta}
