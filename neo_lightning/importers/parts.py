"""A message's content, text or parts of any family -> text, or parts of the shards' form, and what else they hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from neo_lightning.importers.columns import empty
from neo_lightning.importers.error import RecordError
from neo_lightning.importers.record import Medium, as_medium

_TYPES = {
    **dict.fromkeys(("text", "input_text", "output_text"), "text"),
    **dict.fromkeys(("image", "image_url", "input_image", "image_path", "img"), "image"),
    **dict.fromkeys(("video", "video_url", "input_video", "video_path"), "video"),
    **dict.fromkeys(("audio", "audio_url", "input_audio", "audio_path"), "audio"),
    **dict.fromkeys(("reasoning", "thinking", "reasoning_content"), "reasoning"),
    **dict.fromkeys(("tool_call", "tool_use", "function_call"), "call"),
    "tool_result": "result",
}
_ADDRESSES = {
    kind: (kind, f"{kind}_url", f"{kind}_path", "url", "path", "file", "value", "bytes", "base64", "source")
    for kind in ("image", "video")
}
_KNOWN = "text, image, video, reasoning, tool_call"


@dataclass(kw_only=True)
class Parts:
    """What a content holds."""

    content: str | list[dict[str, Any]] = ""
    images: list[Medium | int | None] = field(default_factory=list)
    videos: list[Medium | int | None] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[Any] = field(default_factory=list)
    results: list[tuple[str, str]] = field(default_factory=list)
    """Of `tool_result` parts: text, and the call's name."""
    unused: list[dict[str, Any]] = field(default_factory=list)
    """What is left of each part."""


def read(content: Any, *, literal: bool) -> Parts:
    """The content of one message.

    Args:
        content: a string or number, a part, a list of parts or of strings.
        literal: parts whose text holds `<image>` or `<video>` stay parts, in which that is text.

    Raises:
        RecordError: a part that nobody knows, or that needs what is not read (audio).
    """
    found = Parts()
    if isinstance(content, bool):
        raise RecordError("a content must be text or a list of parts, got bool")
    if isinstance(content, int | float):
        content = str(content)
    if content is None or isinstance(content, str):
        found.content = content or ""
        return found
    pieces: list[dict[str, Any]] = []
    for part in content if isinstance(content, list) else [content]:
        _part({"type": "text", "text": part} if isinstance(part, str) else part, pieces, found)
    text = "".join(piece.get("text", "") for piece in pieces)
    plain = all(piece["type"] == "text" for piece in pieces)
    found.content = text if plain and not (literal and ("<image>" in text or "<video>" in text)) else pieces
    return found


def with_media(content: Any, media: Mapping[str, list[Medium]]) -> Any:
    """The content with parts in front of it for media that its text has no places for."""
    if not any(media.values()) or (isinstance(content, str) and any(f"<{kind}>" in content for kind in media)):
        return content
    pieces = content if isinstance(content, list) else [content]
    return [{"type": kind, kind: one} for kind, listed in media.items() for one in listed] + pieces


def _part(part: Any, pieces: list[dict[str, Any]], found: Parts) -> None:
    if not isinstance(part, dict):
        raise RecordError(f"a content must be text or a list of parts, got {type(part).__name__}")
    left = {str(name): value for name, value in part.items() if not empty(value)}
    given = left.pop("type", None)
    kind = (
        _TYPES.get(str(given)) if given is not None else next((_TYPES[name] for name in left if name in _TYPES), None)
    )
    if given is None and kind is None and "text" in part:
        kind = "text"
    if kind == "text":
        pieces.append({"type": "text", "text": _text(left, ("text", "value", "content"), "text")})
    elif kind == "image" or kind == "video":
        pieces.append({"type": kind})
        (found.images if kind == "image" else found.videos).append(_address(left, kind))
    elif kind == "reasoning":
        found.reasoning.append(_text(left, ("reasoning", "thinking", "value", "text", "content"), "reasoning"))
    elif kind == "call":
        inner = next((left.pop(name) for name in ("tool_call", "function_call", "value") if name in left), None)
        found.calls.append({name: left.pop(name) for name in list(left)} if inner is None else inner)
    elif kind == "result":
        inner = read(left.pop("content", ""), literal=True)
        if not isinstance(inner.content, str) or inner.images or inner.videos:
            raise RecordError("a `tool_result` with media is not read, only one of text")
        found.results.append((inner.content, str(left.pop("tool_use_id", ""))))
    elif kind == "audio":
        raise RecordError(f"the record needs its audio (a part of type {given or kind!r}), which NEO does not hear")
    else:
        raise RecordError(f"unknown part of type {given!r} with {', '.join(left) or 'nothing'} (known: {_KNOWN})")
    found.unused.append(left)


def _text(left: dict[str, Any], names: tuple[str, ...], kind: str) -> str:
    key = next((name for name in names if name in left), None)
    value = "" if key is None else left.pop(key)
    if not isinstance(value, str):
        raise RecordError(f"a part of type {kind!r} must hold text under `{names[0]}`, got {type(value).__name__}")
    return value


def _address(left: dict[str, Any], kind: str) -> Medium | int | None:
    key = next((name for name in _ADDRESSES[kind] if name in left), None)
    if key is not None:
        return as_medium({"bytes": left.pop(key)} if key == "base64" else left.pop(key), key)
    number = left.pop("index", None)
    return number if isinstance(number, int) and not isinstance(number, bool) else None
