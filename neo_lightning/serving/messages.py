"""`messages` of a request -> turns, whose media are addresses still: nothing is read here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .errors import Refused

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_KINDS: dict[str, Literal["image", "video"]] = {"image_url": "image", "video_url": "video"}
_OF_MESSAGE = ("role", "content", "name")
_DETAILS = ("auto", "low", "high")


@dataclass(frozen=True, kw_only=True)
class Address:
    """An image or clip that a message shows."""

    kind: Literal["image", "video"]
    url: str
    where: str
    """Its place in the request."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Address, ...]


def read_messages(value: Any, *, answered: bool = False) -> tuple[Turn, ...]:
    """The turns.

    Args:
        value: the field's.
        answered: the last message is an assistant's, and not the user's.

    Raises:
        Refused: names message and part, what was expected, and what is there.
    """
    if not isinstance(value, list) or not value:
        raise Refused(400, f"messages must be a list of messages, found {_what(value)}", param="messages")
    turns = tuple(_turn(message, f"messages[{i}]") for i, message in enumerate(value))
    last = "assistant" if answered else "user"
    if turns[-1].role != last:
        raise Refused(400, f"the last message must have the role {last}, found {turns[-1].role}", param="messages")
    return turns


def _turn(message: Any, where: str) -> Turn:
    if not isinstance(message, Mapping):
        raise Refused(400, f"{where} must be an object with role and content, found {_what(message)}", param=where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        known = ", ".join(ROLES)
        raise Refused(400, f"{where}.role must be one of {known}, found {_what(role)}", param=f"{where}.role")
    for key, given in message.items():
        if key not in _OF_MESSAGE and given not in (None, [], {}, ""):
            raise Refused(400, f"{where}.{key[:40]} is nothing that this model knows", param=f"{where}.{key[:40]}")
    content, at = message.get("content"), f"{where}.content"
    if isinstance(content, str):
        parts: tuple[str | Address, ...] = (_text(content, at),)
    elif isinstance(content, list) and content:
        parts = tuple(_part(part, f"{at}[{i}]") for i, part in enumerate(content))
    else:
        raise Refused(400, f"{at} must be text or a list of parts, found {_what(content)}", param=at)
    if ROLES[role] != "user" and any(isinstance(part, Address) for part in parts):
        raise Refused(400, f"{at}: only the user shows images and clips", param=at)
    return Turn(role=ROLES[role], parts=parts)  # type: ignore[arg-type]


def _part(part: Any, where: str) -> str | Address:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text":
        return _text(part.get("text"), f"{where}.text")
    if not isinstance(kind, str) or kind not in _KINDS:
        known = f"text, {', '.join(_KINDS)}"
        raise Refused(400, f"{where}.type must be one of {known}, found {_what(kind)}", param=f"{where}.type")
    value = part.get(kind)
    if isinstance(value, Mapping):
        if (detail := value.get("detail", "auto")) not in _DETAILS:
            raise Refused(400, f"{where}.{kind}.detail must be one of {', '.join(_DETAILS)}, found {_what(detail)}")
        if more := [key for key in value if key not in ("url", "detail")]:
            raise Refused(400, f"{where}.{kind} has no {more[0][:40]!r}", param=f"{where}.{kind}")
        value = value.get("url")
    if not isinstance(value, str):
        raise Refused(400, f"{where}.{kind}.url must be an address, found {_what(value)}", param=f"{where}.{kind}.url")
    return Address(kind=_KINDS[kind], url=value, where=where)


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise Refused(400, f"{where} must be text, found {_what(text)}", param=where)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise Refused(400, f"{where} has half of a character's code, which is no text", param=where) from error
    return text


def _what(value: Any) -> str:
    if isinstance(value, str):
        return repr(value[:40])
    return {list: "a list", dict: "an object", type(None): "nothing"}.get(type(value), repr(value)[:40])
