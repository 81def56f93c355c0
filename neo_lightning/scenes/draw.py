"""Draw shapes, digits and clips: integer parameters -> Pillow images and encoded bytes.

Everything is a pure function of its integer arguments, so equal parameters give equal pixels on every machine
with the same Pillow build. No anti-aliasing except in the digits' font: crisp edges survive JPEG at quality 95 and
cost the least time (a 64-pixel picture takes about 50 microseconds). Encoding is most of the rest, so PNGs are written
here, without the filters that flat colours do not need, and an encoder of clips is opened with what it opens quickest.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import Image, ImageDraw, ImageFont

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (225, 30, 30),
    "green": (30, 190, 50),
    "blue": (40, 70, 235),
    "yellow": (235, 220, 30),
    "purple": (190, 40, 210),
    "white": (240, 240, 240),
}
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")


def canvas(width: int, height: int, grey: int) -> Image.Image:
    """Return an RGB image of `width` x `height` pixels filled with one `grey` level (0-255)."""
    return Image.new("RGB", (width, height), (grey, grey, grey))


def draw_shape(image: Image.Image, shape: str, colour: str, x: int, y: int, radius: int) -> None:
    """Draw one filled shape in place, centred on (x, y); all lengths in pixels.

    The four shapes have clearly different outlines at one radius: a disc, its bounding square, an upright triangle
    and a plus with arms a third of its width.
    """
    pen, fill, r = ImageDraw.Draw(image), COLOURS[colour], radius
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        pen.rectangle((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=fill)
    elif shape == "cross":
        arm = max(2, r // 3)
        pen.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
        pen.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)
    else:
        raise ValueError(f"unknown shape {shape!r}; expected one of {', '.join(SHAPES)}")


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def draw_text(image: Image.Image, text: str, colour: str, x: int, y: int, size: int) -> None:
    """Write `text` in place, centred on (x, y), with Pillow's own font at `size` pixels."""
    ImageDraw.Draw(image).text((x, y), text, fill=COLOURS[colour], font=_font(size), anchor="mm")


def encode_image(image: Image.Image, extension: str) -> bytes:
    """Encode an RGB image as `jpg` (quality 95, no chroma subsampling) or `png` (lossless, fast setting)."""
    if extension == "jpg":
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=95, subsampling=0)
        return buffer.getvalue()
    if extension == "png":
        return _png(np.asarray(image))
    raise ValueError(f"unknown image extension {extension!r}; expected 'jpg' or 'png'")


def _png(pixels: np.ndarray) -> bytes:
    """[height, width, 3] uint8 as a PNG whose rows all have filter 0 (PNG specification, section 9)."""
    height, width, _ = pixels.shape
    rows = np.zeros((height, 1 + 3 * width), np.uint8)
    rows[:, 1:] = pixels.reshape(height, -1)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),  # 8 bits, RGB
        (b"IDAT", zlib.compress(rows.tobytes(), 1)),
        (b"IEND", b""),
    ]
    framed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(framed)


_to_yuv = VideoReformatter()
"""Keeps what it set up for the last frame's size."""


def encode_clip(frames: Sequence[Image.Image], fps: int) -> bytes:
    """Encode frames (RGB, all of one even size) as H.264 in an MP4 file at `fps` frames a second."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        stream.time_base = Fraction(1, fps)
        # CABAC, since the tables of the preset's CAVLC take longer to set up than a small clip to encode
        stream.options = {"crf": "10", "preset": "ultrafast", "tune": "zerolatency", "coder": "cabac"}
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            rgb = av.VideoFrame.from_ndarray(np.asarray(frame), format="rgb24")
            picture = _to_yuv.reformat(rgb, format="yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def quadrant_centre(side: int, place: int, dx: int, dy: int) -> tuple[int, int]:
    """Centre of quadrant `place` (0 top left, 1 top right, 2 bottom left, 3 bottom right) of a square image.

    `side` is the image's side and (dx, dy) an offset, all in pixels.
    """
    step = side // 4
    return step * (1 + 2 * (place % 2)) + dx, step * (1 + 2 * (place // 2)) + dy


def path(start: tuple[int, int], stop: tuple[int, int], steps: int) -> list[tuple[int, int]]:
    """Return `steps` integer points from `start` to `stop`, both included, evenly spaced."""
    points = []
    for i in range(steps):
        part = i / (steps - 1)
        points.append(
            (
                math.floor(start[0] + part * (stop[0] - start[0]) + 0.5),
                math.floor(start[1] + part * (stop[1] - start[1]) + 0.5),
            )
        )
    return points
