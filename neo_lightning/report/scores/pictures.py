"""What a question shows -> one small JPEG: images in a row, a clip as a strip of some of its frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from neo_lightning.data.facts import SampleError, costs_one_sample
from neo_lightning.data.media.image import decode_image, image_facts
from neo_lightning.data.media.video import choose_moments, decode_frames, in_section, video_facts
from neo_lightning.evaluation.item import Item
from neo_lightning.report.pictures import film_strip, side_by_side
from neo_lightning.types import Media, VideoBudget

FOLDER = "pictures"
_LONGEST = 420
"""Pixels of an image's longer side."""
_FRAMES = 6
_MOST = 6
"""Images of a question that are shown."""


def save_pictures(items: Sequence[Item], folder: Path) -> list[str]:
    """Write a picture for each question that has one.

    Returns:
        Names below `folder`, one each; empty where a question shows nothing or its media cannot be read.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    names = []
    for number, item in enumerate(items, start=1):
        name = f"{FOLDER}/{number:02d}.jpg"
        try:
            picture = _picture(media_of(item))
        except SampleError:
            picture = None
        if picture is not None:
            stream = io.BytesIO()
            picture.convert("RGB").save(stream, "JPEG", quality=80)
            (folder / name).write_bytes(stream.getvalue())
        names.append(name if picture is not None else "")
    return names


def media_of(item: Item) -> list[Media]:
    """All images and clips of a question."""
    if item.messages is None:
        return list(item.media())
    return [part for message in item.messages() for part in message.parts if isinstance(part, Media)]


def _picture(media: Sequence[Media]) -> Image.Image | None:
    shown: list[Image.Image] = []
    for medium in media[:_MOST]:
        with costs_one_sample(medium.name):
            if medium.kind == "image":
                shown.append(
                    _small(
                        Image.fromarray(
                            decode_image(medium.data, image_facts(medium.data)).permute(1, 2, 0).contiguous().numpy()
                        )
                    )
                )
                continue
            facts = in_section(video_facts(medium.data), medium.section)
            _, indices = choose_moments(facts, VideoBudget(fps=None, max_frames=_FRAMES))
            frames = decode_frames(medium.data, facts, indices.tolist())
            strip = film_strip([_small(Image.fromarray(f.permute(1, 2, 0).contiguous().numpy()), 160) for f in frames])
            shown.append(strip)
    if len(shown) < 2:
        return shown[0] if shown else None
    return side_by_side(shown, height=min(240, max(image.height for image in shown)))


def _small(image: Image.Image, longest: int = _LONGEST) -> Image.Image:
    image.thumbnail((longest, longest))
    return image
