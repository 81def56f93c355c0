"""Real-size photographs and clips for the benchmarks, put together from scikit-image's bundled photographs.

Nothing is downloaded. A photograph is a mosaic at the photographs' own resolution, so that a JPEG of it holds as much
detail as one from a camera; a clip is a window that pans over such a mosaic.
"""

from __future__ import annotations

import io
import time
from pathlib import Path

import av
import numpy as np
import skimage.data
from PIL import Image

from neo_lightning.data.media import video
from neo_lightning.report.machine import machine_facts, version_facts

PHOTOS = ("astronaut.png", "coffee.png", "motorcycle_left.png", "chelsea.png", "motorcycle_right.png")


def mosaic(width: int, height: int, seed: int = 0) -> np.ndarray:
    """[height, width, 3] uint8: photographs side by side in an order drawn by `seed`."""
    folder = Path(skimage.data.__file__).parent
    random = np.random.RandomState(seed)
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, 300):
        left = 0
        while left < width:
            with Image.open(folder / PHOTOS[random.randint(len(PHOTOS))]) as image:
                tile = np.asarray(image.convert("RGB"))[:300]
            room = out[top : top + 300, left : left + tile.shape[1]]
            room[:] = tile[: room.shape[0], : room.shape[1]]
            left += tile.shape[1]
    return out


def jpeg(width: int, height: int, seed: int = 0, *, soft: bool = False) -> bytes:
    """A photograph at quality 90, half the resolution in colour; `soft` is one enlarged twofold, as many are."""
    if soft:
        image = Image.fromarray(mosaic(width // 2, height // 2, seed)).resize((width, height), Image.Resampling.BICUBIC)
    else:
        image = Image.fromarray(mosaic(width, height, seed))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def clip(seconds: int, *, width: int = 1280, height: int = 720, fps: int = 30, gop: int = 250, seed: int = 0) -> bytes:
    """An H.264 clip in MP4 with a key frame every `gop` frames (x264's own choice is 250)."""
    scene = mosaic(width + 256, height + 128, seed)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.gop_size = gop
        stream.codec_context.colorspace = (
            5  # what `encode` converts to; a player takes another for HD that says nothing
        )
        for i in range(seconds * fps):
            x, y = round(128 + 127 * np.sin(i / 40)), round(64 + 63 * np.sin(i / 31))
            window = np.ascontiguousarray(scene[y : y + height, x : x + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def versions(*more: str) -> str:
    """One line: processor, cores, and the versions that the numbers depend on."""
    machine, found = machine_facts(), version_facts()
    names = ("python", "torch", "torchvision", "pillow", "av", "numpy")
    packages = ", ".join([*(f"{name} {found[name]}" for name in names if name in found), *more])
    return f"{machine['processor']}, {machine['cores']} cores, one thread used; {packages}"


def processor_time() -> float:
    """Seconds that this process and its decoder of clips have spent."""
    child = video._decoder()._child
    if child is None:
        return time.process_time()
    running = Path(f"/proc/{child.pid}/schedstat").read_text().split()[0]
    return time.process_time() + int(running) / 1e9
