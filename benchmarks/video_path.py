"""Clip bytes -> sampled frames in RGB at the model's size: milliseconds a clip on one core. One markdown table.

    python benchmarks/video_path.py [--seconds 10]

32 frames spread evenly over 720p H.264 clips with a key frame every 250 frames (x264's own choice), every 30, and of
one short stretch of a long clip:

- one pass forward: PyAV decodes from the first to the last wanted frame, each wanted one converted and resized;
- a seek for each frame: PyAV seeks to the key frame before each wanted frame and decodes on from there;
- torchcodec: `get_frames_played_at`, then torchvision's resize, where it installs (it needs FFmpeg's libraries);
- ours: `data.video`, the decoder's own process, pipes and all.

Before anything is timed each side's frames are compared with those of one pass forward; the PSNR stands in the table
(resizing after or within the conversion to RGB is where they differ). Times are processor time, the decoder's process
counted in, the better of two rounds in which the sides take turns.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from synthetic_media import clip, processor_time, versions

from neo_lightning.data.facts import MediaFacts
from neo_lightning.data.media.video import decode_frames, video_facts

FRAMES, ROUNDS = 32, 2
SIZE = (352, 640)
LEAST_PSNR = 33.0

Side = Callable[[], list[torch.Tensor]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=10, help="length of a clip, at 30 frames a second")
    length = parser.parse_args().seconds
    torch.set_num_threads(1)
    rare, often = clip(length), clip(length, gop=30)
    cases = {
        "key frame every 250": (rare, 0.0, 1.0),
        "every 30": (often, 0.0, 1.0),
        "every 30, last 2%": (often, 0.98, 1),
    }
    print("| clip | path | times the better of pass and seeks | ms a clip | PSNR to one pass |")
    print("|---|---|---:|---:|---:|")
    for name, (data, first, last) in cases.items():
        facts = video_facts(data)
        moments = first + (np.arange(FRAMES) + 0.5) / FRAMES * (last - first)
        sides = paths(data, facts, sorted({int(m * len(facts.ticks)) for m in moments}))
        reference = sides["one pass forward"]()
        quality = {side: psnr(reference, path()) for side, path in sides.items()}
        if bad := [side for side, value in quality.items() if value < LEAST_PSNR]:
            sys.exit(f"{name}: not the same frames as one pass: {', '.join(bad)}: {quality}")
        seconds = race(sides)
        better = min(seconds["one pass forward"], seconds["a seek for each frame"])
        for side, spent in seconds.items():
            print(f"| {name} | {side} | {better / spent:.2f} | {spent * 1e3:.0f} | {quality[side]:.0f} dB |")
    print(f"\n{versions()}")
    if torchcodec() is None:
        print("torchcodec: left out, it is not installed or finds no FFmpeg libraries")
    return 0


def paths(data: bytes, facts: MediaFacts, indices: list[int]) -> dict[str, Side]:
    """The ways to these frames."""
    ticks = [int(facts.ticks[i]) for i in indices]
    sides = {
        "one pass forward": lambda: with_pyav(data, ticks, seek=False),
        "a seek for each frame": lambda: with_pyav(data, ticks, seek=True),
        "ours": lambda: decode_frames(data, facts, indices, SIZE),
    }
    if (decoder := torchcodec()) is not None:
        seconds = [(tick + 0.5) * facts.time_base[0] / facts.time_base[1] for tick in ticks]
        sides["torchcodec"] = lambda: [
            shrink(frame) for frame in decoder(data, num_ffmpeg_threads=1).get_frames_played_at(seconds).data
        ]
    return sides


def with_pyav(data: bytes, ticks: list[int], *, seek: bool) -> list[torch.Tensor]:
    found = []
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        frames = container.decode(stream)
        for tick in ticks:
            if seek:
                container.seek(tick, stream=stream, backward=True)
                frames = container.decode(stream)
            frame = next(frame for frame in frames if frame.pts >= tick)
            pixels = torch.from_numpy(frame.reformat(format="rgb24", threads=1).to_ndarray()).permute(2, 0, 1)
            found.append(shrink(pixels))
    return found


def shrink(pixels: torch.Tensor) -> torch.Tensor:
    return F.interpolate(pixels[None], SIZE, mode="bicubic", antialias=True)[0]


def torchcodec() -> Any:
    """Its decoder, or None."""
    try:
        from torchcodec.decoders import VideoDecoder
    except Exception:  # without FFmpeg's libraries its import fails in several ways
        return None
    return VideoDecoder


def psnr(theirs: list[torch.Tensor], ours: list[torch.Tensor]) -> float:
    """dB, the worst frame's."""
    errors = [float((a.float() - b.float()).square().mean()) for a, b in zip(theirs, ours, strict=True)]
    return 10 * np.log10(255**2 / max(*errors, 255**2 * 1e-10))


def race(sides: dict[str, Side]) -> dict[str, float]:
    """Processor seconds of each side: the best of the rounds."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for side, path in sides.items():
            start = processor_time()
            path()
            best[side] = min(best[side], processor_time() - start)
    return best


if __name__ == "__main__":
    raise SystemExit(main())
