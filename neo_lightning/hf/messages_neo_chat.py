"""Messages, as transformers and OpenAI have them -> messages without media, and the media in reading order."""

from collections.abc import Mapping
from typing import Any

_TYPES = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}


def take_media(messages: Any) -> tuple[list[dict[str, Any]], list[Any], list[Any]]:
    """One conversation's messages, images and clips.

    In the messages a part is text, or says the type of the medium that was there. Text that stands together is one
    part, so that two of them do not spell what neither does.

    Raises:
        ValueError: a message or part of another form; says which.
    """
    found: list[dict[str, Any]] = []
    media: dict[str, list[Any]] = {"image": [], "video": []}
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if not isinstance(message, Mapping) or "role" not in message:
            raise ValueError(f"{where}: expected an object with `role` and `content`, found {type(message).__name__}")
        content = message.get("content")
        if isinstance(content, list | tuple):
            content = _parts(content, media, where)
        elif content is not None and not isinstance(content, str):
            raise ValueError(f"{where}: `content` must be text or a list of parts, found {type(content).__name__}")
        found.append({**message, "content": content})
    return found, media["image"], media["video"]


def _parts(content: Any, media: dict[str, list[Any]], where: str) -> list[dict[str, str]]:
    parts: list[dict[str, str]] = []
    for number, part in enumerate(content):
        kind = "text" if isinstance(part, str) else part.get("type") if isinstance(part, Mapping) else None
        if kind in _TYPES:
            media[_TYPES[kind]].append(_medium(part, kind, f"{where}.content[{number}]"))
            parts.append({"type": _TYPES[kind]})
            continue
        text = part if isinstance(part, str) else part.get("text") if kind == "text" else None
        if not isinstance(text, str):
            raise ValueError(f"{where}.content[{number}]: expected a part of type text, {', '.join(_TYPES)}")
        if parts and parts[-1]["type"] == "text":
            text = parts.pop()["text"] + text
        parts.append({"type": "text", "text": text})
    return parts


def _medium(part: Mapping[str, Any], kind: str, where: str) -> Any:
    value = next((part[key] for key in (kind, "path", "url", "base64") if part.get(key) is not None), None)
    if isinstance(value, Mapping):
        value = value.get("url")
    if value is None:
        raise ValueError(f"{where}: no {_TYPES[kind]} under {kind!r}, 'path' or 'url'")
    return value
