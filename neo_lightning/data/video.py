"""Encoded clip -> chosen frames as RGB pixels.

Frames are chosen by presentation timestamps that the index read from the packets: n moments spread evenly inside the
clip, and for each moment the frame that is on screen. So a variable frame rate is right, and reading needs no count of
frames per second. Containers are recognised by their first bytes and opened with that demuxer only, so that a playlist
or a concat script named `.mp4` cannot make the decoder open other files.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from neo_lightning.data.facts import MediaError, MediaFacts
from neo_lightning.data.image import MAX_SOURCE_PIXELS, fit
from neo_lightning.types import VideoBudget

DECODE_SECONDS = 120.0
"""A clip that takes longer is given up."""

_SEEK_AHEAD_SECONDS = 4.0
_CUT_TOLERANCE_SECONDS = 0.5


def choose_moments(facts: MediaFacts, budget: VideoBudget) -> tuple[np.ndarray, np.ndarray]:
    """Moments to show, and the frames on screen then.

    Returns:
        seconds [n] float64 from the first frame, and indices [n] into `facts.ticks`. With `budget.fps` the count is
        fps x duration, at least 1, at most `max_frames`; without it `max_frames`. Never more than the clip has frames.
    """
    assert facts.ticks is not None
    wanted = budget.max_frames if budget.fps is None else round(facts.duration * budget.fps)
    n = max(1, min(wanted, budget.max_frames, len(facts.ticks)))
    seconds = (np.arange(n) + 0.5) * (facts.duration / n)
    shown_at = (facts.ticks - facts.ticks[0]) * (facts.time_base[0] / facts.time_base[1])
    # The small step forgives the rounding of timestamps to the container's ticks.
    return seconds, np.searchsorted(shown_at, seconds + 1e-6, side="right") - 1


def video_facts(data: bytes) -> MediaFacts:
    """Timestamps from the packets, size and rotation from the first frame.

    Raises:
        MediaError: not a clip in a known container, no video stream, no duration, cut, or too many pixels.
    """
    try:
        with _open(data) as container:
            stream = _stream(container)
            base = stream.time_base
            packets = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.size and p.pts is not None]
            if not packets or base is None:
                raise MediaError("no frames with timestamps")
            packets.sort()
            declared, said = stream.frames, _declared_seconds(container, stream)
            known = bool(said or container.duration)
        with _open(data) as container:
            frame = next(container.decode(_stream(container)), None)
            if frame is None:
                raise MediaError("no frame can be decoded")
            width, height, rotation = frame.width, frame.height, round(frame.rotation) % 360
    except MediaError:
        raise
    except Exception as error:  # FFmpeg's errors come as a dozen types; all of them mean this clip is bad
        raise MediaError(f"damaged or unreadable clip: {error}") from error
    ticks = np.array([pts for pts, _ in packets], dtype=np.int64)
    if len(np.unique(ticks)) < len(ticks):
        raise MediaError("two frames share a timestamp")
    if width * height > MAX_SOURCE_PIXELS:
        raise MediaError(f"{width}x{height} pixels are more than the cap of {MAX_SOURCE_PIXELS}")
    if rotation % 90:
        raise MediaError(f"rotated by {rotation} degrees; only multiples of 90 can be shown")
    seconds = _duration(packets, base)
    if not known:
        raise MediaError("no duration")
    if declared and len(ticks) < declared:
        raise MediaError(f"cut: {len(ticks)} of {declared} frames are there")
    if not declared and said - seconds > max(_CUT_TOLERANCE_SECONDS, 0.02 * said):
        raise MediaError(f"cut: frames end at {seconds:.2f} s of {said:.2f} s")
    if rotation in (90, 270):
        width, height = height, width
    return MediaFacts(
        kind="video",
        width=width,
        height=height,
        ticks=ticks,
        time_base=(base.numerator, base.denominator),
        duration=seconds,
        rotation=rotation,
    )


def decode_frames(
    data: bytes, facts: MediaFacts, indices: Sequence[int], size: tuple[int, int] | None = None
) -> list[Tensor]:
    """The frames with these indices into `facts.ticks` (not decreasing), each [3, height, width] uint8.

    Resized to `size` (height, width) one by one where given: 128 frames in 4K would be 3 GB otherwise.

    Raises:
        MediaError: a frame is missing or damaged, has another size than the facts say, or time runs out.
    """
    assert facts.ticks is not None
    wanted = sorted({int(facts.ticks[i]) for i in indices})
    found: dict[int, Tensor] = {}
    deadline = time.monotonic() + DECODE_SECONDS
    ahead = int(_SEEK_AHEAD_SECONDS * facts.time_base[1] / facts.time_base[0])
    try:
        with _open(data) as container:
            stream = _stream(container)
            frames, position = container.decode(stream), int(facts.ticks[0])
            convert = VideoReformatter()  # one for all frames: setting it up costs more than a small frame
            for tick in wanted:
                if tick - position > ahead:
                    container.seek(tick - ahead // 4, stream=stream, backward=True)
                    frames = container.decode(stream)
                frame, position = _frame_at(frames, tick, facts, convert, deadline), tick
                found[tick] = frame if size is None else fit(frame, size)
    except MediaError:
        raise
    except Exception as error:  # FFmpeg's errors come as a dozen types; all of them mean this clip is bad
        raise MediaError(f"damaged clip: {error}") from error
    return [found[int(facts.ticks[i])] for i in indices]


def _frame_at(
    frames: Iterator[Any], tick: int, facts: MediaFacts, convert: VideoReformatter, deadline: float
) -> Tensor:
    for frame in frames:
        if time.monotonic() > deadline:
            raise MediaError(f"decoding took more than {DECODE_SECONDS:.0f} s")
        if frame.pts is None or frame.pts < tick:
            continue
        if frame.pts > tick or frame.is_corrupt:
            break
        pixels = np.rot90(convert.reformat(frame, format="rgb24", threads=1).to_ndarray(), facts.rotation // 90)
        if pixels.shape != (facts.height, facts.width, 3):
            raise MediaError(f"a frame of {pixels.shape[1]}x{pixels.shape[0]} pixels, not {facts.width}x{facts.height}")
        return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).contiguous()
    raise MediaError(f"no intact frame at timestamp {tick}")


def _open(data: bytes) -> Any:
    if data[4:8] == b"ftyp":
        name = "mp4"
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        name = "matroska"
    else:
        raise MediaError("not an MP4, MOV, MKV or WebM clip" if data else "zero bytes")
    return av.open(io.BytesIO(data), format=name)


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise MediaError("no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # one worker, one core: threads would fight over it
    return stream


def _duration(packets: list[tuple[int, int]], base: Fraction) -> float:
    """Seconds from the first frame to the end of the last."""
    first, (last, length) = packets[0][0], packets[-1]
    if not length:
        length = (last - first) // max(1, len(packets) - 1)
    seconds = float((last + length - first) * base)
    if seconds <= 0:
        raise MediaError("no duration")
    return seconds


def _declared_seconds(container: Any, stream: Any) -> float:
    """How long the container says that the video stream is; 0 where it does not say.

    Matroska keeps one length for the whole file, which a longer sound track stretches, and perhaps a tag per stream.
    """
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if match := re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", "")):
        return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3])
    only_video = len(container.streams) == 1
    return container.duration / av.time_base if container.duration and only_video else 0.0
