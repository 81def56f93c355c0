"""Other families' ways to mark a medium's place in text. Here they are characters; a model would learn to read them.

clear        <|image_pad|>  <|vision_start|>  <image_1>  <ImageHere>  <IMG_CONTEXT>  ...   always stand for a medium
with media   [IMG]  <Image>  <img>a.jpg</img>  <audio>  ...    may be a text's own words where no medium is
with a key   <bbox>  <ref-object>  <cls-label> with `objects`;  <audio> with `audios`
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

_CLEAR = re.compile(
    r"<\|(?:(?:begin|start|end)_of_)?(?:image|img|video|audio|vision)(?:[_ ]?[a-z0-9]+)*\|>"
    r"|<\|media_[a-z]+\|>|<(?:image|img|video|frame|audio)[_ -]?\d+>|<(?:Image|Video)Here>|<IMG_CONTEXT>"
    r"|<(?:start_of_image|end_of_image|image_soft_token|image_placeholder|video_placeholder)>"
)
_WITH_MEDIA = re.compile(
    r"\[(?:IMG|IMAGE|VIDEO)(?:_BREAK|_END)?\]|<(?:Image|IMAGE|Video|VIDEO|audio)>|<img>[^<>]*</img>"
)
_OF_KEYS = {
    ("objects",): re.compile(r"<(?:bbox|ref-object|cls-label)>"),
    ("audios", "audio"): re.compile(r"<audio>"),
}


def found(texts: Iterable[str], pattern: re.Pattern[str] | None = None) -> list[str]:
    """Names of the placeholders in these texts, each once; numbers in them as N."""
    patterns = (_CLEAR, _WITH_MEDIA, *_OF_KEYS.values()) if pattern is None else (pattern,)
    names = (
        re.sub(r"<img>.+</img>", "<img>...</img>", re.sub(r"(?<=[a-z_ -])\d+", "N", match.group()))
        for text in texts
        if "<" in text or "[" in text
        for one in patterns
        for match in one.finditer(text)
    )
    return list(dict.fromkeys(names))


def misplaced(texts: list[str], tree: Mapping[str, Any], *, placed: bool, media: int) -> str:
    """Why a record cannot be used: a placeholder in its texts stands for something. Empty where none does.

    Args:
        placed: places of our own kind are there, so that the media have theirs, or none are wanted.
        media: number of the sample's media.
    """
    for keys, pattern in _OF_KEYS.items():
        if (names := found(texts, pattern)) and (key := next((key for key in keys if tree.get(key)), None)):
            return f"text holds {names[0]!r}, which stands for something in `{key}` that is not read here"
    names = [] if placed else found(texts, _CLEAR) or (found(texts, _WITH_MEDIA) if media else [])
    if not names:
        return ""
    return f"text holds {names[0]!r}, another family's placeholder of a medium; here it is `<image>` or `<video>`"
