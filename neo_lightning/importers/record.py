"""The common form of one record, whatever it was read from, before its media are looked up."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from neo_lightning.importers.error import RecordError
from neo_lightning.importers.grounding import Boxes

__all__ = ["Medium", "Record", "RecordError", "as_medium", "media_of"]

Medium = str | bytes
"""A file name inside the media folder, or the encoded file itself."""

_FILE = re.compile(r"file:(?://(?:localhost(?=/))?)?", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Record:
    """A conversation in the shards' own JSON form, and its media."""

    tree: dict[str, Any]
    """`{"messages": ..., "tools": ...}` or `{"text": ...}`."""
    images: list[Medium] = field(default_factory=list)
    """In the order in which the text shows the images."""
    videos: list[Medium] = field(default_factory=list)
    meta: dict[str, Any] = field(default_factory=dict)
    origins: tuple[str, ...] = ()
    """Of each message, the user's turn that it is of."""
    boxes: Boxes | None = None
    """What `<ref-object>` and `<bbox>` in the text stand for; filled in when the images' sizes are known."""
    layout: str = ""
    """How the record is laid out, for the report."""
    used: tuple[str, ...] = ()
    """Its keys that were read."""
    unused: tuple[str, ...] = ()
    """Keys and parts that are neither learned nor kept in `meta`, and other remarks that the report counts."""


def media_of(value: Any, key: str) -> list[Medium]:
    """Media under a key: one or a list of names, bytes, `{"bytes", "path"}`, or `{"url"}`.

    Raises:
        RecordError: it is something else.
    """
    return [as_medium(one, key) for one in (value if isinstance(value, list) else [value])]


def as_medium(value: Any, key: str) -> Medium:
    """One medium in common form.

    Raises:
        RecordError: neither a name nor bytes.
    """
    if isinstance(value, dict):
        value = _of_object(value)
    if isinstance(value, list) and value:
        raise RecordError(f"`{key}` gives a clip as a list of frames; name the images one by one, or the clip's file")
    if not isinstance(value, str | bytes) or value == "":
        raise RecordError(f"`{key}` must be a path or a list of paths (in Parquet: bytes, or a struct of both)")
    if isinstance(value, str) and (match := _FILE.match(value)):
        return unquote(value[match.end() :])
    return value


def _of_object(value: dict[str, Any]) -> Any:
    if value.get("type") == "base64" and isinstance(value.get("data"), str):
        return f"data:{value.get('media_type', '')};base64,{value['data']}"
    if isinstance(value.get("bytes"), str):
        return f"data:;base64,{value['bytes']}"
    return next(
        (value[name] for name in ("bytes", "path", "url", "image", "video") if value.get(name) is not None), None
    )
