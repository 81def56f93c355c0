"""What a person asks -> `types.Message`s.

A conversation is one of

    "What is this?"                                                        a question
    [{"role": "user", "content": "What is this?"}, ...]                    turns
    [{"role": "user", "content": [{"type": "image", "image": X}, {"type": "text", "text": "What is this?"}]}, ...]
    [Message(...), ...]                                                    turns as the rooms pass them

X is a path, `file://` or `data:` address, encoded bytes, PIL image or uint8 tensor [3, H, W]; a clip is a path, address
or bytes. It stands under the part's type, or under `path` or `url` (`image_url` may hold `{"url": ...}`). Pixels that
are given as such become a PNG, so that everything takes one way to the model.

Media may also be named beside the text, `images=` and `videos=`: then `<image>` and `<video>` say where each goes, in
order. Without such words they go in front: one image or clip as it is, several images as `Image-1: `, image, line feed,
..., which is how the drawn scenes and the authors' benchmarks of several images lay them out.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import unquote, urlsplit

import torch
from PIL import Image, ImageOps

from ..types import Media, Message

Kind = Literal["image", "video"]
Role = Literal["system", "user", "assistant"]
Conversation = str | Sequence[Message] | Sequence[Mapping[str, Any]]

_PLACEHOLDER = re.compile(r"<(image|video)>")
_TYPES: dict[str, Kind] = {"image": "image", "image_url": "image", "video": "video", "video_url": "video"}
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def is_one(conversations: Any) -> bool:
    """Whether this is one conversation, and not a sequence of them.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(conversations, str):
        return True
    if not isinstance(conversations, Sequence) or isinstance(conversations, bytes) or not conversations:
        raise ValueError(
            f"expected a question, a list of messages, or a list of such conversations, found {_what(conversations)}"
        )
    return isinstance(conversations[0], Message | Mapping)


def read_conversation(
    conversation: Conversation, images: Sequence[Any] = (), videos: Sequence[Any] = (), *, folder: Path = Path()
) -> tuple[Message, ...]:
    """One conversation as messages.

    Args:
        conversation: see the head of this file.
        images: for the places `<image>` of a question, in order; or in front of it.
        videos: likewise.
        folder: where relative paths in messages start.

    Raises:
        ValueError: names the message and part, what was expected, and what is there.
    """
    if isinstance(conversation, str):
        media = [
            *(read_medium("image", x, f"images[{i}]") for i, x in enumerate(_several(images, "images"))),
            *(read_medium("video", x, f"videos[{i}]") for i, x in enumerate(_several(videos, "videos"))),
        ]
        _check_text(conversation, "the question")
        return (Message(role="user", parts=lay_out(conversation, media)),)
    if not isinstance(conversation, Sequence) or isinstance(conversation, bytes):
        raise ValueError(f"expected a question or a list of messages, found {_what(conversation)}")
    if images or videos:
        raise ValueError("images and videos go with a question; in a list of messages each medium is a part of its own")
    return tuple(
        turn if isinstance(turn, Message) else _read_turn(turn, f"messages[{i}]", folder)
        for i, turn in enumerate(conversation)
    )


def _several(media: Any, name: str) -> Sequence[Any]:
    """A lone medium as a list of one."""
    if media is None:
        return ()
    if isinstance(media, torch.Tensor):
        return list(media) if media.ndim == 4 else (media,)
    if isinstance(media, str | Path | bytes | bytearray | memoryview | Image.Image):
        return (media,)
    if not isinstance(media, Sequence):
        raise ValueError(f"{name}: expected a list, found {_what(media)}")
    return media


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{where}: half of a character's code ({text[error.start]!a}), which is no text") from error


def lay_out(text: str, media: Sequence[Media]) -> tuple[str | Media, ...]:
    """A question and its media in reading order; see the head of this file.

    Raises:
        ValueError: places and media do not come out even.
    """
    pieces = _PLACEHOLDER.split(text)
    if len(pieces) == 1:
        several = sum(medium.kind == "image" for medium in media) > 1
        numbers = count(1)
        parts: list[str | Media] = []
        for medium in media:
            labelled = several and medium.kind == "image"
            parts += [f"Image-{next(numbers)}: ", medium, "\n"] if labelled else [medium]
        return (*parts, text)
    queues = {kind: [m for m in media if m.kind == kind] for kind in get_args(Kind)}
    for kind, queue in queues.items():
        if pieces[1::2].count(kind) != len(queue):
            raise ValueError(f"the text has {pieces[1::2].count(kind)} <{kind}>, and {len(queue)} were given for them")
    return tuple(piece if i % 2 == 0 else queues[piece].pop(0) for i, piece in enumerate(pieces) if piece)


def read_medium(kind: Kind, value: Any, where: str, folder: Path = Path()) -> Media:
    """An image or clip in any of its forms, as encoded bytes.

    Raises:
        ValueError: it cannot be read, or is none of the forms; names the file or the place in the conversation.
    """
    if isinstance(value, str | Path):
        return _read_file(kind, value, where, folder)
    if isinstance(value, bytes | bytearray | memoryview):
        return Media(kind=kind, data=bytes(value), name=where)
    if kind == "image" and isinstance(value, torch.Tensor):
        if value.dtype != torch.uint8 or value.ndim != 3 or value.shape[0] != 3:
            raise ValueError(f"{where}: a tensor must be [3, H, W] uint8, found {list(value.shape)} {value.dtype}")
        value = Image.fromarray(value.permute(1, 2, 0).contiguous().cpu().numpy())
    if kind == "image" and isinstance(value, Image.Image):
        try:
            return Media(kind=kind, data=_png(value), name=where)
        except (OSError, ValueError) as error:
            raise ValueError(f"{where}: a PIL image of mode {value.mode} and size {value.size}: {error}") from error
    forms = "a path, bytes, a PIL image or a tensor [3, H, W] uint8" if kind == "image" else "a path or bytes"
    raise ValueError(f"{where}: expected {forms}, found {_what(value)}")


def _read_file(kind: Kind, value: str | Path, where: str, folder: Path) -> Media:
    address = urlsplit(str(value)) if isinstance(value, str) and "://" in value else None
    if address is not None and (address.scheme != "file" or address.netloc not in ("", "localhost")):
        raise ValueError(f"{where}: {value}: nothing is downloaded; give a path, a file:// address or the bytes")
    try:
        if isinstance(value, str) and value.startswith("data:"):
            return Media(kind=kind, data=_embedded(value), name=where)
        path = folder / os.path.expanduser(unquote(address.path) if address else value)
        return Media(kind=kind, data=path.read_bytes(), name=str(value))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{where}: cannot read {str(value)[:200]}: {reason}") from error


def _embedded(address: str) -> bytes:
    """The bytes of a `data:image/png;base64,...` address, as OpenAI's messages have them."""
    head, comma, text = address.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("expected data:TYPE;base64,TEXT")
    return base64.b64decode(text, validate=True)


def _png(image: Image.Image) -> bytes:
    shown = ImageOps.exif_transpose(image)
    if 0 in shown.size:
        raise ValueError(f"a picture of size {shown.size} shows nothing")
    if shown.mode == "F":
        raise ValueError("floating point has no range of its own; make it uint8 first")
    if shown.mode == "I":
        shown = shown.convert("I;16")
    if shown.mode not in _PNG_MODES:
        shown = shown.convert("RGB")
    file = io.BytesIO()
    shown.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _read_turn(turn: Any, where: str, folder: Path) -> Message:
    if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
        raise ValueError(f"{where}: expected an object with `role` and `content`, found {_what(turn)}")
    role, content = turn["role"], turn["content"]
    if role not in get_args(Role):
        raise ValueError(f"{where}: unknown role {role!r}; there are {', '.join(get_args(Role))}")
    if isinstance(content, str):
        _check_text(content, where)
        return Message(role=role, parts=(content,))
    if not isinstance(content, Sequence):
        raise ValueError(f"{where}: `content` must be text or a list of parts, found {_what(content)}")
    parts = (_read_part(part, f"{where}.content[{i}]", folder) for i, part in enumerate(content))
    return Message(role=role, parts=tuple(parts))


def _read_part(part: Any, where: str, folder: Path) -> str | Media:
    if isinstance(part, str):
        _check_text(part, where)
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        _check_text(part["text"], where)
        return part["text"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{where}: expected a part of type text, {', '.join(_TYPES)}, found {kind or _what(part)!r}")
    value = next((part[key] for key in (kind, "path", "url") if part.get(key) is not None), None)
    if isinstance(value, Mapping):
        value = value.get("url")
    if value is None:
        raise ValueError(f"{where}: no {_TYPES[kind]} under {kind!r}, 'path' or 'url'")
    return read_medium(_TYPES[kind], value, where, folder)


def _what(value: Any) -> str:
    if value is None:
        return "nothing"
    empty = isinstance(value, Sequence) and not value
    return f"an empty {type(value).__name__}" if empty else type(value).__name__
