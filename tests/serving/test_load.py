"""A thousand requests at once, and the worst media: memory and time stay bounded, and others are answered.

NEO_FIGURES=1 pytest tests/serving/test_load.py -s     prints what docs/serving.md says
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import time
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from neo_lightning.answering import Engine
from tests.serving.conftest import NAME, Running, data_url, serving, shown
from tests.serving.test_hostile import head

REQUESTS = 1000


def long_clip(seconds: int) -> bytes:
    """A clip of one small frame a minute."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=1)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i in range(0, seconds, 60):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), i % 250, np.uint8), format="rgb24")
            frame.pts = i
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def solid(side: int) -> bytes:
    """A picture of few bytes and many pixels."""
    file = io.BytesIO()
    Image.new("L", (side, side)).save(file, "PNG")
    return file.getvalue()


async def one(running: Running, body: bytes) -> tuple[int, float]:
    """Status of a request, and its seconds."""
    began = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    writer.write(head(running, len(body)) + body)
    reply = await reader.read()
    writer.close()
    return int(reply.split()[1]), time.perf_counter() - began


async def at_once(running: Running, bodies: list[bytes]) -> list[tuple[int, float]]:
    return await asyncio.gather(*(one(running, body) for body in bodies))


def tell(text: str) -> None:
    if os.environ.get("NEO_FIGURES"):
        print(text)


def peak() -> int:
    """Most memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@pytest.mark.slow
def test_a_thousand_at_once(engine: Engine) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    body = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "copy red"}], "max_tokens": 3}).encode()
    try:
        with serving(engine) as running:
            before = peak()
            asyncio.run(one(running, body))
            began = time.perf_counter()
            found = asyncio.run(at_once(running, [body] * REQUESTS))
            took, more = time.perf_counter() - began, peak() - before
            statuses = Counter(status for status, _ in found)
            assert set(statuses) <= {200, 429}
            assert statuses[200] >= running.service.waiting, "those that there is room for"
            assert statuses[429] > 0, "the others are told at once"
            assert more < 1024, f"{more} MB more"
            told = sorted(seconds for status, seconds in found if status == 429)
            answered = sorted(seconds for status, seconds in found if status == 200)
            again = asyncio.run(one(running, body))
            assert again[0] == 200
            assert running.service.bodies.requests == running.service.bodies.bytes == 0
            tell(
                f"{REQUESTS} at once: {statuses[200]} answered, {statuses[429]} told to come again (the last after "
                f"{told[-1]:.1f} s); all after {took:.1f} s, median answer {answered[len(answered) // 2]:.1f} s; "
                f"{more} MB more"
            )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
def test_the_worst_media(engine: Engine, tmp_path: Path) -> None:
    """Large pictures of few bytes, and clips of hours, while others ask about text."""
    pictures = json.dumps({"model": NAME, "messages": shown(data_url(solid(9000))), "max_tokens": 3}).encode()
    clip = data_url(long_clip(5 * 3600), "video/x-matroska")
    clips = json.dumps({"model": NAME, "messages": shown(clip, kind="video_url"), "max_tokens": 3}).encode()
    text = json.dumps({"model": NAME, "messages": [{"role": "user", "content": "copy red"}], "max_tokens": 3}).encode()
    with serving(engine) as running:
        before = peak()

        async def together() -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
            worst = asyncio.ensure_future(at_once(running, [pictures] * 6 + [clips] * 2))
            others = []
            while not worst.done():
                others.append(await one(running, text))
            return await worst, others

        worst, others = asyncio.run(together())
        more = peak() - before
        assert {status for status, _ in worst + others} == {200}
        assert len(others) > 1, "text was answered in the meantime"
        assert more < 3072, f"{more} MB more: two pictures of 81 Mpixels are decoded at a time"
        waited, last = sorted(seconds for _, seconds in others), max(seconds for _, seconds in worst)
        tell(
            f"6 pictures of 81 Mpixels ({len(pictures) >> 10} KB) and 2 clips of 5 hours: {last:.1f} s for all, "
            f"{more} MB more; {len(others)} questions about text meanwhile, "
            f"median {waited[len(waited) // 2]:.2f} s, longest {waited[-1]:.2f} s"
        )
