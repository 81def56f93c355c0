"""The common form of one record of somebody's JSON, before its media are looked up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class RecordError(ValueError):
    """This record cannot be imported; the message is the reason."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A conversation in the shards' own JSON form, and the addresses of its media."""

    tree: dict[str, Any]
    """`{"conversations": ...}` or `{"messages": ...}`."""
    images: list[str] = field(default_factory=list)
    """Addresses in the order in which the text shows the images."""
    videos: list[str] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)


def address_list(item: dict[str, Any], *names: str) -> list[str]:
    """Addresses under the first of these keys that is there: a string, or a list of strings."""
    present = [name for name in names if item.get(name) not in (None, "", [])]
    if len(present) > 1:
        raise RecordError(f"both `{present[0]}` and `{present[1]}` name media")
    if not present:
        return []
    value = item[present[0]]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    raise RecordError(f"`{present[0]}` must be a path or a list of paths")


def record_meta(item: dict[str, Any]) -> dict[str, Any]:
    """The record's own `meta`, and its `id`."""
    meta = item.get("meta") or {}
    if not isinstance(meta, dict):
        raise RecordError("`meta` must be an object")
    return {**({"id": item["id"]} if "id" in item else {}), **meta}
