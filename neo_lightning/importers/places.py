"""The places of a record's media in its messages, brought to the shards' form: `<image>` and `<video>`.

Nothing is guessed: another name of a place is taken where it is the only one there, and stands as often as the record
has media of that kind.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

from neo_lightning.importers.error import RecordError
from neo_lightning.importers.record import Medium

OTHERS = {
    "image": re.compile(
        r"<\|vision_start\|><\|image_pad\|><\|vision_end\|>|<\|image_pad\|>|<\|image\|>|<\|image_\d+\|>|<image_placeholder>"
        r"|<image[_ ]?\d+>|<ImageHere>|<IMG_CONTEXT>|<start_of_image>|<image_soft_token>|<IMAGE>|\[IMG\]"
    ),
    "video": re.compile(
        r"<\|vision_start\|><\|video_pad\|><\|vision_end\|>|<\|video_pad\|>|<\|video\|>|<video_placeholder>"
        r"|<video[_ ]?\d+>|<VideoHere>|<VIDEO>"
    ),
}
"""How other families mark the place of an image or clip."""
_WITH_ADDRESS = re.compile(r"<img>([^<>]+)</img>")
_AUDIO = re.compile(r"<audio>|<\|audio_pad\|>|<\|audio\|>")
_SWAPPED = {"image": "video", "video": "image"}


def settle(messages: list[dict[str, Any]], images: list[Medium], videos: list[Medium], *, front: bool) -> list[Medium]:
    """Rename places where that is unambiguous; the images, with those whose address stands in the text.

    Args:
        messages: changed in place.
        front: media without any place go in front of the first question, however many they are.

    Raises:
        RecordError: numbered places that do not stand in the order of the media.
    """
    media = {"image": len(images), "video": len(videos)}
    placed = {kind: _count(messages, kind) for kind in media}
    if not media["image"] and not placed["image"]:
        images = [address for text in _strings(messages) for address in _WITH_ADDRESS.findall(text)]
        _replace(messages, lambda text: _WITH_ADDRESS.sub("<image>", text))
        return images
    for kind, other in _SWAPPED.items():
        if media[kind] and not placed[kind] and not media[other] and placed[other] == media[kind]:
            _rename(messages, other, kind)
            return images
    for kind, pattern in OTHERS.items():
        names = [name for text in _strings(messages) for name in pattern.findall(text)]
        if media[kind] and not placed[kind] and len(names) == media[kind]:
            _check_numbers(names, kind)
            _replace(messages, partial(pattern.sub, f"<{kind}>"))
            placed[kind] = len(names)
    if front and not placed["image"] and not placed["video"] and sum(media.values()) > 1:
        _put_in_front(messages, "<image>" * len(images) + "<video>" * len(videos) + "\n")
    return images


def needs_audio(messages: list[dict[str, Any]]) -> str:
    """The place of a sound in the text; empty where there is none."""
    found = (match.group() for text in _strings(messages) for match in _AUDIO.finditer(text))
    return next(found, "")


def _count(messages: list[dict[str, Any]], kind: str) -> int:
    return sum(
        content.count(f"<{kind}>") if isinstance(content, str) else sum(part["type"] == kind for part in content)
        for content in (message["content"] for message in messages)
    )


def _strings(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages if isinstance(message["content"], str)]


def _replace(messages: list[dict[str, Any]], change: Callable[[str], str]) -> None:
    for message in messages:
        if isinstance(message["content"], str):
            message["content"] = change(message["content"])


def _rename(messages: list[dict[str, Any]], old: str, new: str) -> None:
    _replace(messages, lambda text: text.replace(f"<{old}>", f"<{new}>"))
    for message in messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == old:
                part["type"] = new


def _check_numbers(names: list[str], kind: str) -> None:
    numbers = [int(match.group()) for name in names if (match := re.search(r"\d+", name))]
    first = numbers[0] if numbers and numbers[0] in (0, 1) else 1
    if numbers and numbers != list(range(first, first + len(names))):
        raise RecordError(f"the places {', '.join(names)} do not stand in the order of the {kind}s; write <{kind}>")


def _put_in_front(messages: list[dict[str, Any]], text: str) -> None:
    for message in messages:
        if message["role"] == "user" and isinstance(message["content"], str):
            message["content"] = text + message["content"]
            return
