"""What a record says that nothing reads, by name: the index counts it, an import reports it.

    objects    messages[].name    messages[].content[].max_pixels    tool_calls[].cache    text: <|image_pad|>

A key without a value (null, or empty) says nothing. `meta` is the user's own. Names and addresses of media (`image`,
`url`, ...) are used by the media themselves, which lie in the shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from neo_lightning.data.text.conversation import CONVERSATIONS
from neo_lightning.data.text.placeholders import found

_RECORD = {"meta", "id", "image", "images", "video", "videos"}
_ADDRESSES = {"type", "image", "image_url", "video", "video_url", "url", "path"}
_CALL = {"id", "type", "index", "function", "name", "arguments"}


def unused(tree: Mapping[str, Any], caption: str | None = None) -> list[str]:
    """Names of what a record in the shards' form says without effect, each once.

    Args:
        tree: the record's JSON object; it need not be a sample.
        caption: text of its `.txt` member.
    """
    return list(dict.fromkeys([*_names(tree, caption), *(f"text: {name}" for name in found(_texts(tree, caption)))]))


def _names(tree: Mapping[str, Any], caption: str | None) -> Iterator[str]:
    key = next((key for key in CONVERSATIONS if key in tree), None)
    if key is not None:
        known = {key, "system", "tools"}
    elif caption is not None:
        known = {name for name in ("text", "caption") if tree.get(name) == caption}
    else:
        known = {"text"} if "text" in tree else {"caption"}
    yield from _others(tree, _RECORD | known)
    turns = tree[key] if key is not None and isinstance(tree[key], list) else []
    for turn in turns:
        if isinstance(turn, dict):
            assert key is not None
            for name in _of_turn(turn, *CONVERSATIONS[key]):
                yield f"{key}[].{name}"


def _of_turn(turn: Mapping[str, Any], role_key: str, text_key: str) -> Iterator[str]:
    known = {role_key, text_key}
    if turn.get(role_key) in ("assistant", "gpt"):
        known |= {"tool_calls", "reasoning_content", "loss", "weight"}
        tool_calls = turn.get("tool_calls")
        for call in tool_calls if isinstance(tool_calls, list) else []:
            if isinstance(call, dict):
                yield from (f"tool_calls[].{name}" for name in _others(call, _CALL))
                if isinstance(function := call.get("function"), dict):
                    yield from (f"tool_calls[].function.{name}" for name in _others(function, {"name", "arguments"}))
    else:
        known |= {name for name in ("loss", "weight") if not turn.get(name)}
        known |= {"tool_call_id", "name"} if turn.get(role_key) == "tool" else set()
    yield from _others(turn, known)
    parts = turn.get(text_key)
    for part in parts if isinstance(parts, list) else []:
        if isinstance(part, dict):
            yield from (f"{text_key}[].{name}" for name in _of_part(part))


def _of_part(part: Mapping[str, Any]) -> Iterator[str]:
    if part.get("type") == "text":
        yield from _others(part, {"type", "text"})
        return
    yield from _others(part, _ADDRESSES)
    for key in ("image_url", "video_url"):
        if isinstance(address := part.get(key), dict):
            yield from (f"{key}.{name}" for name in _others(address, {"url"}))


def _others(tree: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    return (str(name) for name, value in tree.items() if name not in known and value not in (None, "", [], {}))


def _texts(tree: Mapping[str, Any], caption: str | None) -> list[str]:
    """All text that placeholders could stand in."""
    texts: list[Any] = [caption, tree.get("system"), tree.get("text"), tree.get("caption")]
    for key, (_, text_key) in CONVERSATIONS.items():
        for turn in tree[key] if isinstance(tree.get(key), list) else []:
            content = turn.get(text_key) if isinstance(turn, dict) else None
            parts = content if isinstance(content, list) else [content]
            texts += [part.get("text") if isinstance(part, dict) else part for part in parts]
    return [text for text in texts if isinstance(text, str)]
