"""A sample's JSON and caption -> turns with numbered places of media.

Understood JSON (one object a sample, `meta` optional everywhere):

    {"conversations": [{"from": "human", "value": "<image>\\nWhat is this?"}, {"from": "gpt", "value": "A cat."}]}
    {"messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}, ...]}
    {"messages": [{"role": "user", "content": "<image>What is this?"}, ...], "system": "...", "tools": [...]}
    {"text": "A document or a caption."}        (or `caption`, as img2dataset writes it; a .txt beside it counts first)

`<image>` and `<video>` in text take the sample's media in order; so do parts of type image, image_url, video and
video_url (whatever address they carry: pixels come from the shard). One medium without a placeholder goes in front of
the first user message, followed by a line feed, or in front of a caption. Anything that does not come out even is an
error for this sample: nothing is guessed. A turn may also carry `tool_calls`, `reasoning_content` (see `template`), and
`loss` or `weight`, by which it is shown and not learnt; `unused` names all that is not understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from neo_lightning.data.facts import SampleError, Turn
from neo_lightning.data.files import plain_text
from neo_lightning.data.text.placeholders import misplaced
from neo_lightning.data.text.template import Part, calls, response, thinking, tools_section
from neo_lightning.types import Mark

ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "tool": "tool",
}
CONVERSATIONS = {"conversations": ("from", "value"), "messages": ("role", "content")}
"""Keys of a conversation -> keys of a turn's role and content."""
_PLACEHOLDER = re.compile(r"<(image|video)>")
_MEDIA = ("image", "video")
_TYPES = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}


@dataclass(slots=True)
class _Turn:
    role: str
    parts: list[Part]
    learnt: bool = True


def parse_turns(tree: Mapping[str, Any], caption: str | None, kinds: Sequence[str], *, literal: bool) -> list[Turn]:
    """Turns of a sample.

    Args:
        tree: the sample's JSON object (empty where there is none).
        caption: text of its `.txt` member.
        kinds: "image" or "video" for each of its media, in order.
        literal: leave `<image>` and `<video>` in text alone (a source of plain text).

    Raises:
        SampleError: no conversation, nothing to learn, an empty answer, an unknown role or part, a `weight` other than
            0 or 1, places and media that do not match, or another family's placeholder in a place's stead.
    """
    if caption is not None and any(key in tree for key in CONVERSATIONS):
        raise SampleError("both a conversation in the JSON and a caption in the .txt")
    turns = _turns(tree, caption, literal)
    placed = literal or any(kind in _MEDIA for turn in turns for kind, _ in turn.parts)
    texts = [text for turn in turns for kind, text in turn.parts if kind == "text"]
    if reason := misplaced(texts, tree, placed=placed, media=len(kinds)):
        raise SampleError(reason)
    _place(turns, kinds)
    return _numbered(turns, len(kinds))


def places(tree: Mapping[str, Any]) -> list[str]:
    """ "image" or "video" for each place in the conversation, in reading order.

    Raises:
        SampleError: see `parse_turns`.
    """
    turns = _turns(tree, None, literal=False)
    return [kind for turn in turns for kind, _ in turn.parts if kind in _MEDIA]


def _turns(tree: Mapping[str, Any], caption: str | None, literal: bool) -> list[_Turn]:
    keys = [key for key in CONVERSATIONS if key in tree]
    for key in ("label", "kto_tag"):
        if is_good(key, tree.get(key), talk=bool(keys)) is False:
            raise SampleError(f"`{key}` is false: the answer is a bad one and is not learnt")
    if len(keys) > 1:
        raise SampleError("JSON holds both `conversations` and `messages`")
    if keys:
        turns = _conversation(tree[keys[0]], keys[0], literal)
        _add_system(turns, tree, literal)
        return turns
    text = caption if caption is not None else tree.get("text", tree.get("caption"))
    if not isinstance(text, str):
        raise SampleError("no `conversations`, `messages`, `text` or `caption` in the JSON, and no .txt")
    if not text.strip():
        raise SampleError("the text is empty: nothing to learn")
    return [_Turn("assistant", _split(text, literal))]


def _conversation(items: Any, key: str, literal: bool) -> list[_Turn]:
    if not isinstance(items, list) or not items:
        raise SampleError(f"`{key}` must be a list of messages")
    turns = [_turn(item, f"`{key}[{number}]`", *CONVERSATIONS[key], literal) for number, item in enumerate(items)]
    if not any(turn.role == "assistant" for turn in turns):
        raise SampleError("no assistant message: nothing to learn")
    if not any(turn.role == "assistant" and turn.learnt for turn in turns):
        raise SampleError("every answer has loss or weight 0: nothing to learn")
    return turns


def _turn(item: Any, where: str, role_key: str, text_key: str, literal: bool) -> _Turn:
    has_more = isinstance(item, dict) and bool(item.get("tool_calls") or item.get("reasoning_content"))
    if not isinstance(item, dict) or role_key not in item or not (text_key in item or has_more):
        raise SampleError(f"{where}: a message must be an object with `{role_key}` and `{text_key}`")
    role = ROLES.get(str(item[role_key]))
    if role is None:
        raise SampleError(f"{where}: unknown role {item[role_key]!r} (known: {', '.join(ROLES)})")
    content = item.get(text_key)
    if isinstance(content, str):
        parts = _split(content, literal)
    elif isinstance(content, list):
        parts = [_part(p, where) for p in content]
    elif content is None and role == "assistant":
        parts = []
    else:
        raise SampleError(f"{where}: `{text_key}` must be a string or a list of parts")
    if role != "assistant":
        return _Turn(role, parts)
    parts, learnt = _answer(item, parts, where), _learnt(item, where)
    if learnt and not any(text.strip() for _, text in parts):
        raise SampleError(f"{where}: the answer is empty: nothing to learn")
    return _Turn(role, parts, learnt)


def _answer(item: Mapping[str, Any], parts: list[Part], where: str) -> list[Part]:
    """An answer's content with what stands in front of it and behind it."""
    reasoning, tool_calls = item.get("reasoning_content"), item.get("tool_calls")
    if reasoning:
        if not isinstance(reasoning, str):
            raise SampleError(f"{where}: `reasoning_content` must be a string")
        if parts and parts[0][0] == "text":
            parts = [("text", parts[0][1].lstrip("\n")), *parts[1:]]
    if tool_calls and not isinstance(tool_calls, list):
        raise SampleError(f"{where}: `tool_calls` must be a list")
    said = any(kind != "text" or text for kind, text in parts)
    return [*(thinking(reasoning) if reasoning else []), *parts, *calls(tool_calls or [], where, after=said)]


def _learnt(item: Mapping[str, Any], where: str) -> bool:
    """What `loss` and `weight` say of an answer."""
    said = {key: item[key] for key in ("loss", "weight") if item.get(key) is not None}
    for key, value in said.items():
        if weight_of(value) not in (0, 1):
            raise SampleError(f"{where}: `{key}` is {value!r}; an answer is learnt (1) or not (0)")
    if len({weight_of(value) for value in said.values()}) > 1:
        raise SampleError(f"{where}: `loss` and `weight` contradict each other")
    return all(weight_of(value) for value in said.values())


def weight_of(value: Any) -> float | None:
    """A weight as a number, from one, a truth value or the text of either; None where it is something else."""
    if isinstance(value, str):
        value = {"true": 1, "false": 0}.get(value.strip().lower(), value)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_good(key: str, value: Any, *, talk: bool) -> bool | None:
    """What KTO's `label` or `kto_tag` says of an answer; None where it says nothing or is another kind of label.

    A `label` of 0 or 1 may be a class, unless it stands beside a conversation (`talk`); `false` and `true`, and any
    number under `kto_tag`, are none.
    """
    if isinstance(value, bool) or (isinstance(value, str) and value.strip().lower() in ("true", "false")):
        return bool(weight_of(value))
    return bool(weight_of(value)) if (talk or key == "kto_tag") and weight_of(value) in (0, 1) else None


def _add_system(turns: list[_Turn], tree: Mapping[str, Any], literal: bool) -> None:
    """The record's own `system` and `tools`, as the first turn."""
    system, tools = tree.get("system"), tree.get("tools")
    if system:
        if not isinstance(system, str):
            raise SampleError("`system` must be a string")
        if turns[0].role == "system":
            raise SampleError("both `system` and a first message of the system")
        turns.insert(0, _Turn("system", _split(system, literal)))
    if isinstance(tools, str):
        try:
            tools = json.loads(tools or "[]")
        except (ValueError, RecursionError) as error:
            raise SampleError(f"`tools` is a string that is not JSON: {error}") from error
    if not tools:
        return
    if not isinstance(tools, list):
        raise SampleError("`tools` must be a list")
    if turns[0].role != "system":
        turns.insert(0, _Turn("system", []))
    turns[0].parts += tools_section(tools, after=bool(turns[0].parts))


def _part(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return "text", part["text"]
    if isinstance(kind, str) and kind in _TYPES:
        return _TYPES[kind], ""
    raise SampleError(f"{where}: unknown part of type {kind!r} (known: text, {', '.join(_TYPES)})")


def _split(text: str, literal: bool) -> list[Part]:
    if literal or "<" not in text:
        return [("text", text)]
    pieces = _PLACEHOLDER.split(text)
    return [("text", piece) if i % 2 == 0 else (piece, "") for i, piece in enumerate(pieces) if piece]


def _place(turns: list[_Turn], kinds: Sequence[str]) -> None:
    """See that there is a place for each medium; kinds have to agree one by one."""
    found = [kind for turn in turns for kind, _ in turn.parts if kind in _MEDIA]
    if not found and len(kinds) == 1:
        target = next((turn.parts for turn in turns if turn.role == "user"), None)
        if target is None:
            turns[0].parts.insert(0, (kinds[0], ""))
        else:
            target[:0] = [(kinds[0], ""), ("text", "\n")]
        found = [kinds[0]]
    if found != list(kinds):
        raise SampleError(f"text has places for {_count(found)}, the sample holds {_count(kinds)}")


def _numbered(turns: Sequence[_Turn], media: int) -> list[Turn]:
    """Give each place its medium; results of tools that follow each other are one turn of the user's."""
    numbers = iter(range(media))
    done = []
    for role, group in groupby(turns, lambda turn: turn.role):
        if role == "tool":
            parts = [part for i, turn in enumerate(group) for part in response(turn.parts, first=not i)]
            group = iter([_Turn("user", parts)])
        for turn in group:
            found: list[str | int] = []
            for kind, text in turn.parts:
                found.append(next(numbers) if kind in _MEDIA else Mark(text) if kind == "mark" else _checked(text))
            done.append(Turn(role=turn.role, parts=tuple(found), learnt=turn.learnt))  # type: ignore[arg-type]
    return done


def _checked(text: str) -> str:
    """By the rule for all text. JSON escapes can spell what UTF-8 text cannot hold."""
    if "\0" in text:
        raise SampleError("text holds NUL characters")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SampleError("text holds half of a surrogate pair") from error
    return plain_text(text)


def _count(kinds: Sequence[str]) -> str:
    if not kinds:
        return "no media"
    if "image" in kinds and "video" in kinds:
        return f"[{', '.join(kinds)}]"
    return f"{len(kinds)} {kinds[0]}{'s' if len(kinds) > 1 else ''}"
