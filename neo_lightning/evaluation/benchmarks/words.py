"""An item in a benchmark's words: the messages that the model is shown."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from ...data.facts import SampleError, costs_one_sample
from ...data.media.image import decode_image, image_facts, smart_resize
from ...data.media.video import decode_frames, in_section, video_facts
from ...types import Media, Message, PixelBudget
from ..item import Item
from .benchmark import Benchmark, Frames

_WORD = re.compile(r"\{(question|hint|options|media)\}")
_PLACEHOLDER = "<image>"
"""Dropped from a question: its pictures stand where the words say."""
_INLINE = "<image 1>"


def messages_of(item: Item, benchmark: Benchmark) -> tuple[Message, ...]:
    """What is asked, media included.

    Raises:
        SampleError: a medium cannot be read.
    """
    system = (Message(role="system", parts=(benchmark.system,)),) if benchmark.system else ()
    if item.messages is not None:
        asked = item.messages()
        return asked if asked[0].role == "system" else (*system, *asked)
    return (*system, Message(role="user", parts=_parts(item, benchmark)))


def template_of(item: Item, benchmark: Benchmark, *, clip: bool) -> str:
    """The words that a row is asked in."""
    words = benchmark.words
    for category in item.categories:
        if category in words.by_category:
            return words.by_category[category]
    if clip and words.clip:
        return words.clip
    return words.choice if item.options else words.open


def _parts(item: Item, benchmark: Benchmark) -> tuple[str | Media, ...]:
    words, media = benchmark.words, list(item.media())
    clip = any(medium.kind == "video" for medium in media)
    shown: list[str | Media] = []
    held: list[str | Media] = []
    images = [medium for medium in media if medium.kind == "image"]
    if benchmark.enlarge > 1 and images:
        images[0] = _enlarged(images[0], benchmark.enlarge)
    for number, image in enumerate(images, start=1):
        placed = held if words.inline else shown
        placed += _around(words.one if len(images) == 1 else words.several, image, number)
    for video in media:
        if video.kind == "video" and benchmark.frames is None:
            shown += _around(words.one, video, 1)
        elif video.kind == "video" and benchmark.frames is not None:
            for number, frame in enumerate(frames_of(video, benchmark.frames, benchmark.image), start=1):
                shown += _around(benchmark.frames.label, frame, number)
    template = template_of(item, benchmark, clip=clip)
    if "{media}" not in template:
        behind = words.behind and len(images) > 1
        template = template + "{media}" if behind else "{media}" + template
    values = {
        "question": item.question.replace(_PLACEHOLDER, "").strip(),
        "hint": f"{item.fields['hint']}\n" if item.fields.get("hint") else "",
        "options": "".join(
            _filled(words.option, {"letter": letter, "text": text}) for letter, text in item.options.items()
        ),
    }
    parts: list[str | Media] = []
    for i, piece in enumerate(_WORD.split(template)):
        if i % 2 == 0:
            parts.append(piece)
        elif piece == "media":
            parts += shown
        elif piece == "question" and _INLINE in values[piece] and held:
            front, _, back = values[piece].partition(_INLINE)
            parts += [front, *held, back]
            held = []
        else:
            parts.append(values[piece])
    return _joined([*parts, *held])


def _around(label: str, medium: Media, number: int) -> list[str | Media]:
    front, _, back = label.replace("{number}", str(number)).partition("{image}")
    return [front, medium, back]


def _filled(template: str, values: dict[str, str]) -> str:
    """In one pass: a text that is put in is never a template itself."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def _joined(parts: Sequence[str | Media]) -> tuple[str | Media, ...]:
    found: list[str | Media] = []
    for part in parts:
        if isinstance(part, str) and found and isinstance(found[-1], str):
            found[-1] += part
        elif part:
            found.append(part)
    return tuple(found)


def _enlarged(image: Media, factor: int) -> Media:
    """The same picture with its sides times `factor`, bilinear as the authors do it."""
    with costs_one_sample(image.name):
        pixels = decode_image(image.data, image_facts(image.data))
        picture = _picture(pixels)
        size = picture.width * factor, picture.height * factor
        return Media(kind="image", data=_png(picture.resize(size, Image.Resampling.BILINEAR)), name=image.name)


def frames_of(clip: Media, frames: Frames, budget: PixelBudget | None) -> list[Media]:
    """Frames of a clip as pictures, from the first to the last, at most as many as it has.

    Raises:
        SampleError: the clip cannot be decoded.
    """
    with costs_one_sample(clip.name):
        facts = in_section(video_facts(clip.data), clip.section)
        if facts.ticks is None or not len(facts.ticks):
            raise SampleError(f"{clip.name}: a clip without frames")
        count = min(frames.count, len(facts.ticks))
        indices = np.linspace(0, len(facts.ticks) - 1, count).astype(int).tolist()
        size = smart_resize(facts.height, facts.width, budget) if budget else None
        pictures = decode_frames(clip.data, facts, indices, size)
    return [
        Media(kind="image", data=_png(_picture(pixels)), name=f"{clip.name}, frame {i}")
        for i, pixels in zip(indices, pictures, strict=True)
    ]


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
