"""Small real files for the data tests: encoded images and clips, and shards that hold them."""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image
from tokenizers import AddedToken

from neo_lightning.data.text.tokenizer import Tokenizer, train_tokenizer

CORPUS = [
    "What colour is the circle on the left? It is red.",
    "The time range of this video is [00:00-00:04], and the following is a series of 4 frames sampled at 1.0 FPS.",
    "user assistant system where are the two squares, and which image shows 42?",
] * 20


def picture(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
    """Smooth random colours, so that JPEG keeps them."""
    small = np.random.RandomState(seed).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def clip(
    frames: int = 12,
    *,
    fps: int = 6,
    size: tuple[int, int] = (64, 48),
    ticks: list[int] | None = None,
    format: str = "mp4",
    codec: str = "libx264",
    faststart: bool = False,
) -> bytes:
    """H.264 clip whose frame i has grey level 10 + 15 * i; `ticks` gives timestamps in units of 1/600 s."""
    with tempfile.NamedTemporaryFile() as file:
        _encode(file.name, frames, fps, size, ticks, format, codec, {"movflags": "faststart"} if faststart else {})
        return Path(file.name).read_bytes()


def _encode(
    path: str,
    frames: int,
    fps: int,
    size: tuple[int, int],
    ticks: list[int] | None,
    format: str,
    codec: str,
    options: dict[str, str],
) -> None:
    with av.open(path, "w", format=format, options=options) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = Fraction(1, 600)
        stream.codec_context.time_base = Fraction(1, 600)
        for i in range(frames):
            level = np.full((size[1], size[0], 3), 10 + 15 * (i % 16), np.uint8)
            frame = av.VideoFrame.from_ndarray(level, format="rgb24")
            frame.pts = ticks[i] if ticks else i * 600 // fps
            frame.time_base = Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    """A plain tar with these members, in order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def chat(question: str, answer: str, **more: Any) -> bytes:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return json.dumps({"conversations": turns, **more}).encode()


def make_tokenizer(folder: Path) -> Tokenizer:
    return train_tokenizer(CORPUS, 420, folder)


def textured(
    frames: int = 24, *, size: tuple[int, int] = (96, 64), gop: int = 12, codec: str = "libx264", format: str = "mp4"
) -> bytes:
    """A clip whose picture moves, so that frames lean on each other."""
    scene = np.asarray(picture(size[0] * 2, size[1], 1)).copy()
    scene[::4] //= 2
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=12)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = gop
        for i in range(frames):
            window = np.ascontiguousarray(np.roll(scene, -2 * i, 1)[:, : size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def make_qwen_tokenizer(folder: Path) -> Tokenizer:
    """A small tokenizer with Qwen3's tokens of thinking and tools, which are not special there, and NEO's."""
    backend = make_tokenizer(folder).backend
    names = [f"<{slash}{name}>" for name in ("tool_call", "tool_response", "think") for slash in ("", "/")]
    backend.add_tokens([AddedToken(name, normalized=False) for name in names])
    backend.save(str(folder / "tokenizer.json"))
    return Tokenizer.load(folder)
