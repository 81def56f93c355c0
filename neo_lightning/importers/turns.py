"""A list of turns or pairs, as any family writes it -> messages in the shards' form, and the media of their parts.

    {"from": "human", "value": ...}   {"role": "user", "content": ... or [parts]}   {"human": ..., "assistant": ...}

A part is `{"type": T, ...}` or has one key that says what it is; text, media, reasoning and calls are understood. Calls
(`tool_calls`, roles `function_call` and `tool_call`, parts) become OpenAI's `tool_calls` of the assistant's message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from neo_lightning.data.files import parse_json
from neo_lightning.data.text.conversation import weight_of
from neo_lightning.importers import parts
from neo_lightning.importers.columns import TURN_COLUMNS, Reading, empty
from neo_lightning.importers.error import RecordError
from neo_lightning.importers.record import Medium, media_of

_ASKS = ("human", "user", "input", "question", "query", "prompt", "instruction")
_ANSWERS = ("assistant", "gpt", "bot", "output", "answer", "response")
_WEIGHTS = ("loss", "weight", "loss_weight", "loss_scale", "train")
_CALLS = ("tool_calls", "function_call")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_BESIDE = (*_CALLS, *_REASONING, "image", "images", "video", "videos")
"""What may stand in the place of a content."""


@dataclass(kw_only=True)
class Conversation:
    """Messages as they have been read so far."""

    reading: Reading
    literal: bool
    """Leave `<image>` in the text of parts alone: the record lists no media that could stand there."""
    messages: list[dict[str, Any]] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    """Of each message, the user's turn that it is of."""
    images: list[Medium | int | None] = field(default_factory=list)
    """Of each image part: its address, its number in the record's list, or None: the next one of that list."""
    videos: list[Medium | int | None] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    kept: dict[str, list[Any]] = field(default_factory=dict)
    """By path, what turns and parts say of their origin: goes to the sample's `meta`."""
    form: str = ""
    """The keys of a turn, for the report."""
    _origin: str = ""

    def read(self, value: Any, key: str) -> None:
        """All turns of a list (or of a string that holds it as JSON).

        Raises:
            RecordError: what and where it is, with the key and the turn's number.
        """
        value = parsed(value, key)
        if not isinstance(value, list) or not value:
            raise RecordError(f"`{key}` must be a list of messages")
        for number, turn in enumerate(value):
            try:
                self.turn(turn, f"{key}[]", f"{key}[{number}]")
            except RecordError as error:
                raise RecordError(f"`{key}[{number}]`: {error}") from error

    def turn(self, item: Any, key: str, place: str = "") -> None:
        """One turn, or one pair of question and answer; `place` says which of a list."""
        self._origin = place or key
        if isinstance(item, list) and len(item) == 2 and not any(isinstance(one, list | dict) for one in item):
            item = {"user": item[0], "assistant": item[1]}  # a pair of `history`
        if not isinstance(item, dict):
            raise RecordError(f"expected an object with a role and its text, got {type(item).__name__}")
        left = {str(name): value for name, value in item.items() if value is not None}
        role = self._key("role", left)
        if role is None:
            self._pair(left, key)
            return
        content = self._key("content", left)
        others = [name for name in left if name != role]
        if content is None and others and not any(name in _BESIDE for name in others):
            raise RecordError(
                f"a turn without content (found {', '.join(others)}); --columns content=KEY names its key"
            )
        self.form = self.form or f"{role}, {content or 'content'}"
        said_by = self.reading.role(left.pop(role))
        if content is None and not others and said_by in ("user", "system"):
            raise RecordError(f"the {said_by}'s content is null")
        self._message(said_by, left.pop(content, "") if content else "", left, key)

    def clear(self) -> None:
        """Forget what has been read."""
        self.messages, self.origins, self.images, self.videos, self.unused, self.kept = [], [], [], [], [], {}

    def add(self, role: str, content: Any) -> None:
        """A message of text or parts."""
        self._origin = role
        self._message(role, content, {}, role)

    def _key(self, column: str, item: dict[str, Any]) -> str | None:
        own = self.reading.columns.get(column)
        return next((name for name in (TURN_COLUMNS[column] if own is None else (own,)) if name in item), None)

    def _pair(self, left: dict[str, Any], key: str) -> None:
        ask = next((name for name in _ASKS if name in left), None)
        answer = next((name for name in _ANSWERS if name in left), None)
        if answer is None:
            wanted = " or ".join(" and ".join(pair) for pair in (("role", "content"), ("from", "value")))
            raise RecordError(
                f"no role and no pair of question and answer (found {', '.join(left) or 'nothing'}; known: {wanted}, "
                "human and assistant, input and output); --columns role=KEY,content=KEY names the keys"
            )
        self.form = self.form or f"{ask}, {answer}"
        if "system" in left and not self.messages:
            self._message("system", left.pop("system"), {}, key)
        if ask is not None:
            question = left.pop(ask)
            if ask == "instruction" and not empty(more := left.pop("input", "")):
                question = f"{question}\n{more}"
            if not empty(question):
                self._message("user", question, {}, key)
        self._message("assistant", left.pop(answer), left, key)

    def _message(self, role: str, content: Any, left: dict[str, Any], key: str) -> None:
        calls = [call for name in _CALLS for call in _calls(left.pop(name, None))]
        if role == "function_call":
            role, calls, content = "assistant", _calls(content), ""
        thought = [left.pop(name) for name in _REASONING if isinstance(left.get(name), str)]
        beside = {kind: _listed(left, kind) for kind in ("image", "video")}
        read = parts.read(parts.with_media(content, beside), literal=self.literal and not any(beside.values()))
        for kind, media in beside.items():
            if media and isinstance(read.content, str):
                (read.images if kind == "image" else read.videos).extend(media)
        for rest in read.unused:
            self._beside(rest, f"{key}.content[]")
        self.images += read.images
        self.videos += read.videos
        for result, identity in read.results:
            self._append({"role": "tool", "content": result, **({"tool_call_id": identity} if identity else {})})
        if read.results and not read.content:
            self._beside(left, key)
            return
        message: dict[str, Any] = {"role": role, "content": read.content}
        if calls := calls + _calls(read.calls):
            message["tool_calls"] = calls
        if thought := [text for text in (*thought, *read.reasoning) if text]:
            message["reasoning_content"] = "\n".join(thought)
        if role != "assistant" and ("tool_calls" in message or "reasoning_content" in message):
            raise RecordError(f"calls or reasoning in a message of the role {role!r}: only an assistant has them")
        if role == "tool":
            message |= {name: left.pop(name) for name in ("name", "tool_call_id") if isinstance(left.get(name), str)}
        self._weigh(message, left, key)
        self._beside(left, key)
        self._append(message)

    def _weigh(self, message: dict[str, Any], left: dict[str, Any], key: str) -> None:
        """A weight of 0 is `loss: false`, of 1 nothing; those of turns that are not learned anyhow are named.

        Raises:
            RecordError: another weight of an answer: it is neither learned nor not, as in shards.
        """
        for name in _WEIGHTS:
            if name not in left:
                continue
            value = left.pop(name)
            weight = weight_of(value)
            if message["role"] != "assistant":
                self.unused += [f"{key}.{name}"] if weight != 0 else []
            elif weight not in (0, 1):
                raise RecordError(f"`{name}` is {value!r}; an answer is learned (1) or not (0)")
            elif message.setdefault("loss", bool(weight)) != bool(weight):
                raise RecordError(f"`{name}` contradicts the weight beside it")
        if message.get("loss"):
            del message["loss"]

    def _beside(self, left: dict[str, Any], key: str) -> None:
        """What nothing has used of a turn or part."""
        for name, value in left.items():
            path = f"{key}.{name}"
            if self.reading.keeps(path, name, value):
                self.kept.setdefault(path, []).append(value)
            elif not empty(value):
                self.unused.append(path)

    def _append(self, message: dict[str, Any]) -> None:
        """Calls that follow an assistant's message or other calls are of the same message."""
        last = self.messages[-1] if self.messages else {}
        same = last.get("role") == message["role"] == "assistant" and last.get("loss") == message.get("loss")
        if same and "tool_calls" in message and not message["content"] and "reasoning_content" not in message:
            last["tool_calls"] = [*last.get("tool_calls", []), *message["tool_calls"]]
        else:
            self.messages.append(message)
            self.origins.append(self._origin)


def _listed(left: dict[str, Any], kind: str) -> list[Medium]:
    """Media that a turn lists beside its content."""
    names = [name for name in (kind, f"{kind}s") if not empty(left.get(name))]
    return [medium for name in names for medium in media_of(left.pop(name), name)]


def parsed(value: Any, key: str) -> Any:
    """A value that may be a string of JSON, as in CSV and Parquet.

    Raises:
        RecordError: it is a string of something else.
    """
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"`{key}` is a string that is not JSON: {error}") from error


def tools(value: Any) -> list[dict[str, Any]]:
    """`tools` in OpenAI's form, from a list or its JSON, of functions or of wrapped functions.

    Raises:
        RecordError: it is something else.
    """
    value = parsed(value, "tools")
    value = [value] if isinstance(value, dict) else value
    if not isinstance(value, list):
        raise RecordError("`tools` must be a list of functions, or the JSON of one")
    found = [parsed(tool, "tools[]") for tool in value]
    for tool in found:
        if not isinstance(tool, dict):
            raise RecordError("`tools` must be a list of functions, or the JSON of one")
    found = [tool if tool.get("type") == "function" else {"type": "function", "function": tool} for tool in found]
    for tool in found:
        if not isinstance(tool.get("function"), dict) or not isinstance(tool["function"].get("name"), str):
            raise RecordError("each of `tools` must be a function with a `name`")
    return found


def _calls(value: Any) -> list[dict[str, Any]]:
    """Calls in OpenAI's form, from one or a list of them, bare or wrapped, or their JSON."""
    if empty(value):
        return []
    value = parsed(value, "function_call")
    found = []
    for call in value if isinstance(value, list) else [value]:
        call = parsed(call, "tool_calls[]")
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise RecordError("a call must be an object with `name` and `arguments`, or the JSON of one")
        arguments: Any = next((function[name] for name in ("arguments", "input", "parameters") if name in function), {})
        identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
        found.append({**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}})
    return found
