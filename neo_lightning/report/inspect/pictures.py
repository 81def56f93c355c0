"""Pixels -> pictures inside the page, at the resolution that the model sees, while the page stays small.

Small pictures are kept exactly (PNG), larger ones as JPEG of quality 90. Each pack has a share of the page's bytes;
when it is used up, its further pictures are thumbnails and say so.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

THUMBNAIL = 96
"""Longer side in pixels."""

_EXACT_PIXELS = 160 * 160
"""Pictures of at most so many pixels are kept exactly."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An encoded picture."""

    source: str
    """Data URI."""
    reduced: bool
    """Not at its own resolution."""


class Album:
    """Encodes pictures within a number of bytes."""

    def __init__(self, room: int) -> None:
        self._room = room

    def add(self, pixels: Tensor) -> Picture:
        """Encode [3, H, W] uint8."""
        image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        data, kind = _encoded(image)
        if reduced := len(data) > self._room:
            image.thumbnail((THUMBNAIL, THUMBNAIL))
            data, kind = _encoded(image)
        self._room -= len(data)
        return Picture(source=data_uri(data, kind), reduced=reduced)


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of an image of some kind (png, jpeg) as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def thumbnail_uri(pixels: Tensor) -> str:
    """[3, H, W] uint8, no longer than a thumbnail, as an address."""
    return Album(1 << 20).add(pixels).source


def _encoded(image: Image.Image) -> tuple[bytes, str]:
    stream = io.BytesIO()
    if image.width * image.height <= _EXACT_PIXELS:
        image.save(stream, "PNG")
        return stream.getvalue(), "png"
    image.save(stream, "JPEG", quality=90, subsampling=0)
    return stream.getvalue(), "jpeg"
