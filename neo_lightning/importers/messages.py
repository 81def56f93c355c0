"""OpenAI-style records, with parts or with ms-swift's lists.

    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", "text": "..."}]},
                  {"role": "assistant", "content": "..."}]}
    {"messages": [{"role": "user", "content": "<image>..."}, ...], "images": ["a.jpg"], "videos": ["b.mp4"]}

A part without an address takes the next one of `images` or `videos`. An address is a path, or a `data:` URL
that holds the file itself: nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

from neo_lightning.importers.record import Medium, Record, RecordError, medium_list, record_meta

_KINDS = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}


def read_record(item: dict[str, Any]) -> Record:
    """One record in common form; addresses move out of the parts.

    Raises:
        RecordError: there are no `messages`, or addresses stand both in parts and in lists.
    """
    if not isinstance(item.get("messages"), list):
        raise RecordError(f"no `messages` list (found {', '.join(item) or 'nothing'}); is this --format llava?")
    found: dict[str, list[Medium]] = {"image": [], "video": []}
    turns = [_without_addresses(message, found) for message in item["messages"]]
    listed = {"image": medium_list(item, "images", "image"), "video": medium_list(item, "videos", "video")}
    for kind, addresses in listed.items():
        if addresses and found[kind]:
            raise RecordError(f"{kind} addresses stand both in the parts and in a list")
    return Record(
        tree={"messages": turns},
        images=listed["image"] or found["image"],
        videos=listed["video"] or found["video"],
        meta=record_meta(item),
    )


def _without_addresses(message: Any, found: dict[str, list[Medium]]) -> Any:
    if not isinstance(message, dict) or not isinstance(message.get("content"), list):
        return message
    parts = []
    for part in message["content"]:
        kind = _KINDS.get(str(part.get("type"))) if isinstance(part, dict) else None
        if kind is None:
            parts.append(part)
            continue
        address = part.get(part["type"], part.get("path"))
        if isinstance(address, dict):
            address = address.get("url")
        if isinstance(address, str):
            found[kind].append(address)
        elif address is not None:
            raise RecordError(f"the address of a part of type {part['type']!r} must be a string")
        parts.append({"type": kind})
    return {"role": message.get("role"), "content": parts}
