"""A sample's JSON and caption -> turns with numbered places of media.

Understood JSON (one object a sample, `meta` optional everywhere):

    {"conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}
    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}, ...]}
    {"messages": [{"role": "user", "content": "<image>What is this?"}, ...]}
    {"text": "A document or a caption."}        (or `caption`, as img2dataset writes it; a .txt beside it counts first)

`<image>` and `<video>` in text take the sample's media in order; so do parts of type image, image_url, video and
video_url (whatever address they carry: pixels come from the shard). One medium without a placeholder goes in front of
the first user message, followed by a line feed, or in front of a caption. Anything that does not come out even is an
error for this sample: nothing is guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from neo_lightning.data.facts import SampleError, Turn

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_PLACEHOLDER = re.compile(r"<(image|video)>")


def parse_turns(tree: Mapping[str, Any], caption: str | None, kinds: Sequence[str], *, literal: bool) -> list[Turn]:
    """Turns of a sample.

    Args:
        tree: the sample's JSON object (empty where there is none).
        caption: text of its `.txt` member.
        kinds: "image" or "video" for each of its media, in order.
        literal: leave `<image>` and `<video>` in text alone (a source of plain text).

    Raises:
        SampleError: no conversation, an unknown role or part, or places and media that do not match.
    """
    if caption is not None and ("conversations" in tree or "messages" in tree):
        raise SampleError("both a conversation in the JSON and a caption in the .txt")
    return _number(_turns(tree, caption, literal), kinds)


def places(tree: Mapping[str, Any]) -> list[str]:
    """ "image" or "video" for each place in the conversation, in reading order.

    Raises:
        SampleError: see `parse_turns`.
    """
    return [kind for _, parts in _turns(tree, None, literal=False) for kind, _ in parts if kind != "text"]


def _turns(tree: Mapping[str, Any], caption: str | None, literal: bool) -> list[tuple[str, list[_Part]]]:
    if "conversations" in tree and "messages" in tree:
        raise SampleError("JSON holds both `conversations` and `messages`")
    if "conversations" in tree:
        return _conversation(tree["conversations"], "conversations", "from", "value", literal)
    if "messages" in tree:
        return _conversation(tree["messages"], "messages", "role", "content", literal)
    text = caption if caption is not None else tree.get("text", tree.get("caption"))
    if not isinstance(text, str):
        raise SampleError("no `conversations`, `messages`, `text` or `caption` in the JSON, and no .txt")
    return [("assistant", _split(text, literal))]


_Part = tuple[str, str]  # ("text", the text) or (kind, "")


def _conversation(items: Any, key: str, role_key: str, text_key: str, literal: bool) -> list[tuple[str, list[_Part]]]:
    if not isinstance(items, list) or not items:
        raise SampleError(f"`{key}` must be a list of messages")
    turns = []
    for item in items:
        if not isinstance(item, dict) or role_key not in item or text_key not in item:
            raise SampleError(f"a message in `{key}` must be an object with `{role_key}` and `{text_key}`")
        role = ROLES.get(str(item[role_key]))
        if role is None:
            raise SampleError(f"unknown role {item[role_key]!r} (known: {', '.join(ROLES)})")
        content = item[text_key]
        if isinstance(content, str):
            parts = _split(content, literal)
        elif isinstance(content, list):
            parts = [_part(p) for p in content]
        else:
            raise SampleError(f"`{text_key}` must be a string or a list of parts")
        turns.append((role, parts))
    if not any(role == "assistant" for role, _ in turns):
        raise SampleError("no assistant message: nothing to learn")
    return turns


def _part(part: Any) -> _Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if kind in ("image", "image_url"):
        return "image", ""
    if kind in ("video", "video_url"):
        return "video", ""
    raise SampleError(f"unknown part of type {kind!r} (known: text, image, image_url, video, video_url)")


def _split(text: str, literal: bool) -> list[_Part]:
    if literal or "<" not in text:
        return [("text", text)]
    pieces = _PLACEHOLDER.split(text)
    return [("text", piece) if i % 2 == 0 else (piece, "") for i, piece in enumerate(pieces) if piece]


def _number(turns: list[tuple[str, list[_Part]]], kinds: Sequence[str]) -> list[Turn]:
    """Give each place its medium; kinds have to agree one by one."""
    places = [kind for _, parts in turns for kind, _ in parts if kind != "text"]
    if not places and len(kinds) == 1:
        target = next((parts for role, parts in turns if role == "user"), None)
        if target is None:
            turns[0][1].insert(0, (kinds[0], ""))
        else:
            target[:0] = [(kinds[0], ""), ("text", "\n")]
        places = [kinds[0]]
    if places != list(kinds):
        raise SampleError(f"text has places for {_count(places)}, the sample holds {_count(kinds)}")
    for _, parts in turns:
        for _, text in parts:
            _check_text(text)
    numbers = iter(range(len(kinds)))
    return [
        Turn(role=role, parts=tuple(text if kind == "text" else next(numbers) for kind, text in parts))  # type: ignore[arg-type]
        for role, parts in turns
    ]


def _check_text(text: str) -> None:
    """JSON escapes can spell what UTF-8 text cannot hold."""
    if "\0" in text:
        raise SampleError("text holds NUL characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SampleError("text holds half of a surrogate pair") from error


def _count(kinds: Sequence[str]) -> str:
    if not kinds:
        return "no media"
    if "image" in kinds and "video" in kinds:
        return f"[{', '.join(kinds)}]"
    return f"{len(kinds)} {kinds[0]}{'s' if len(kinds) > 1 else ''}"
