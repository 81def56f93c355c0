"""A row's pictures and clips: in base64, as bytes, or as files below the data's folder.

VLMEvalKit's tables have `image` (base64, a list of it, or the index of the row that holds the picture) or `image_path`;
Hugging Face's have `image` or `images` with bytes, or `image_1`, `image_2`, .... Clips are files in `video_path`,
`video` or `video_name`; `start` and `end` are the section that is meant. Names start at the folder of the data, or at
its `images/NAME` as in $LMUData; nothing outside that folder is read, through links neither.
"""

from __future__ import annotations

import ast
import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ...data.facts import SampleError
from ...types import Media

_IMAGES = ("image", "images", "image_path", "image_paths", "decoded_image", "visual")
_CLIPS = ("video_path", "video", "videos", "video_name")
_NUMBERED = re.compile(r"image_(\d+)")
_REFERENCE = 64
"""Characters; a shorter `image` names another row (VLMEvalKit's rule)."""
_MOST = 1 << 30
"""Bytes of one picture or clip."""


def read_media(
    fields: Mapping[str, Any], folder: Path, name: str, other: Callable[[str], Any] | None = None
) -> tuple[Media, ...]:
    """All media of a row, images in front of clips.

    Args:
        fields: the row.
        folder: below which files lie.
        name: of the data, for `images/NAME`.
        other: index -> the `image` of the row that has it.

    Raises:
        SampleError: something is neither base64 nor a file below the folder.
    """
    media: list[Media] = []
    numbered = sorted((column for column in fields if _NUMBERED.fullmatch(column)), key=lambda c: int(c[6:]))
    for column in (*_IMAGES, *numbered):
        for value in _several(fields.get(column)):
            if other is not None and column == "image" and isinstance(value, str) and len(value) <= _REFERENCE:
                media += [_medium("image", part, column, folder, name) for part in _several(other(value))]
            else:
                media.append(_medium("image", value, column, folder, name))
        if media and column in _IMAGES:
            break  # image_path names what image holds
    for column in _CLIPS:
        if clips := _several(fields.get(column)):
            if column == "video" and fields.get("prefix"):
                clips = [f"{fields['prefix']}/{clip}" for clip in clips]
            section = _section(fields)
            found = (_medium("video", clip, column, folder, name) for clip in clips)
            return (*media, *(replace(clip, section=section) for clip in found))
    return tuple(media)


def _section(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    """MVBench's `start` and `end`, in seconds, where its `bound` does not say that the whole clip is meant."""
    said: list[Any] = [fields.get(name) for name in ("start", "end")]
    if str(fields.get("bound", True)) == "False" or all(value in (None, "") for value in said):
        return None
    try:
        start, end = (float(value) for value in said)
    except (TypeError, ValueError) as error:
        raise SampleError(f"start and end must be seconds of the clip, found {said[0]!r} and {said[1]!r}") from error
    return start, end


def _several(value: Any) -> list[Any]:
    """A cell as a list; a text that is written as one is one."""
    if value is None or value == "":
        return []
    if isinstance(value, str) and value[:1] == "[" and value.rstrip()[-1:] == "]":
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise SampleError("a list of media that cannot be read") from error
    return [part for part in value if part not in (None, "")] if isinstance(value, list | tuple) else [value]


def _medium(kind: Literal["image", "video"], value: Any, column: str, folder: Path, name: str) -> Media:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path") or value.get("url")
    if isinstance(value, bytes | bytearray):
        return Media(kind=kind, data=bytes(value), name=column)
    if not isinstance(value, str) or not value:
        raise SampleError(f"{column}: expected base64, bytes or a file's name, found {type(value).__name__}")
    if "path" not in column and (data := _base64(value)) is not None:
        return Media(kind=kind, data=data, name=column)
    return Media(kind=kind, data=_file(value, kind, folder, name), name=value)


def _base64(text: str) -> bytes | None:
    """The bytes of base64 or of a `data:` address; None of a text that is a file's name."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    elif len(text) <= _REFERENCE or "." in text[:_REFERENCE]:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise SampleError(f"neither base64 nor a file's name: {text[:40]!r}...") from error


def _file(text: str, kind: str, folder: Path, name: str) -> bytes:
    root = folder.resolve()
    tails = ("", ".mp4") if kind == "video" else ("",)
    for start in (root, root / "images" / name, root / "video", root / "videos"):
        for tail in tails:
            path = (start / f"{text}{tail}").resolve()
            if not path.is_relative_to(root):
                raise SampleError(f"{text}: lies outside {folder}; nothing outside the data's folder is read")
            if path.is_file():
                if path.stat().st_size > _MOST:
                    raise SampleError(f"{text}: larger than {_MOST >> 20} MiB")
                return path.read_bytes()
    raise SampleError(f"{text}: no such file below {folder}")
