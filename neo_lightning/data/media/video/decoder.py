"""The program that decodes clips, in a process of its own with a memory limit (see `process.py`, which starts it).

On stdin: a line of JSON that says what to do, then the clip's bytes. On stdout: for each frame a piece of JSON (behind
its length in 4 bytes) and the pixels; at the end a piece of JSON with the facts, or with what is wrong with the clip.

It imports nothing of this package, so that it starts in a fraction of a second and takes little memory. All packets of
a clip are read first (a clip is in memory anyway). Of a group of pictures only what stands before the last wanted frame
is decoded, groups without a wanted frame are passed over, and so are unwanted frames that no other frame is predicted
from: never more work than one pass forward, never more than a seek for each frame.
"""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

MAX_FRAME_PIXELS = 40_000_000
"""8192 x 4320 is 35 million."""

_CUT_TOLERANCE_SECONDS = 0.5
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


class ClipError(ValueError):
    """What is wrong with the clip."""


def facts(data: bytes) -> dict[str, Any]:
    """Timestamps from the packets, size and rotation from the first frame.

    Returns:
        ticks (increasing), time_base [numerator, denominator] in seconds, duration in seconds from the first frame to
        the end of the last, width and height in pixels as stored, rotation in degrees counter-clockwise.

    Raises:
        ClipError: not a clip in a known container, no video stream, no duration, cut, or too many pixels.
    """
    with _open(data) as container:
        stream = _stream(container)
        base, packets = stream.time_base, _packets(container, stream)
        shown = sorted((p.pts, p.duration or 0) for p in packets if p.pts is not None and not p.is_discard)
        if not shown or base is None:
            raise ClipError("no frames with timestamps")
        frame = next(_decode(stream.codec_context, packets), None)
        if frame is None:
            raise ClipError("no frame can be decoded")
        width, height, rotation = frame.width, frame.height, round(frame.rotation) % 360
        declared, said = stream.frames, _declared_seconds(container, stream)
        known = bool(said or container.duration)
    _check_pixels(width, height)
    ticks = [pts for pts, _ in shown]
    if len(set(ticks)) < len(ticks):
        raise ClipError("two frames share a timestamp")
    if rotation % 90:
        raise ClipError(f"rotated by {rotation} degrees; only multiples of 90 can be shown")
    seconds = float(_span(shown) * base)
    if seconds <= 0 or not known:
        raise ClipError("no duration")
    if declared and len(packets) < declared:
        raise ClipError(f"cut: {len(packets)} of {declared} frames are there")
    if not declared and said - seconds > max(_CUT_TOLERANCE_SECONDS, 0.02 * said):
        raise ClipError(f"cut: frames end at {seconds:.2f} s of {said:.2f} s")
    return {
        "ticks": ticks,
        "time_base": [base.numerator, base.denominator],
        "duration": seconds,
        "width": width,
        "height": height,
        "rotation": rotation,
    }


def frames(
    data: bytes, ticks: list[int], stored: list[int], size: list[int], rotation: int
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames with these timestamps, in the order in which they are decoded: (tick, [height, width, 3] uint8).

    Args:
        ticks: wanted timestamps.
        stored: [width, height] that every frame must have, in pixels as stored.
        size: [width, height] to resize to by bicubic interpolation, before the rotation.
        rotation: degrees counter-clockwise to turn the picture, a multiple of 90.

    Raises:
        ClipError: a frame is missing or damaged, or leans on a damaged one, or has another size.
    """
    missing, convert = set(ticks), VideoReformatter()
    with _open(data) as container:
        stream = _stream(container)
        packets, decoder = _packets(container, stream), stream.codec_context

        def run(start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
            for frame in _decode(decoder, packets[start:stop], missing.copy()):
                if frame.is_corrupt:  # wanted or not: those behind it are predicted from it
                    raise ClipError(f"damaged frame at timestamp {frame.pts}")
                if frame.pts not in missing:
                    continue
                if [frame.width, frame.height] != stored:
                    raise ClipError(f"a frame of {frame.width}x{frame.height} pixels, not {stored[0]}x{stored[1]}")
                picture = convert.reformat(frame, size[0], size[1], "rgb24", interpolation=_SCALING, threads=1)
                missing.remove(frame.pts)
                yield frame.pts, np.rot90(picture.to_ndarray(), rotation // 90)
            if lost := [packet.pts for packet in packets[start:stop] if packet.pts in missing]:
                raise ClipError(f"no frame at timestamp {min(lost)}")

        for start, stop in groups(packets, missing):
            try:
                yield from run(start, stop)
            except ClipError:
                if start == 0:
                    raise
                # perhaps no damage: where pictures are refreshed part by part, decoding cannot start at this key frame
                decoder.flush_buffers()
                yield from run(0, stop)
            decoder.flush_buffers()
    if missing:
        raise ClipError(f"no frame at timestamp {min(missing)}")


def groups(packets: list[Any], wanted: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges [start, stop) of packets that hold the wanted timestamps, each starting at a key frame."""
    wanted, keys = set(wanted), [0]
    found: list[tuple[int, int]] = []
    for i, packet in enumerate(packets):
        if packet.is_keyframe:
            keys.append(i)
        if packet.pts in wanted:
            # a frame that is shown before its key frame leans on the group before that
            start = next((k for k in reversed(keys) if (packets[k].pts or 0) <= packet.pts), 0)
            while found and start < found[-1][1]:
                start = min(start, found.pop()[0])
            found.append((start, i + 1))
    return found


def _decode(decoder: Any, packets: list[Any], wanted: set[int] | None = None) -> Iterator[Any]:
    """Frames of packets that start with a key frame; those that nothing leans on only where wanted."""
    first = packets[0].pts if packets else None
    for packet in packets:
        if first is not None and packet.pts is not None and packet.pts < first:
            continue  # leans on frames before the key frame
        decoder.skip_frame = "DEFAULT" if wanted is None or packet.pts in wanted else "NONREF"
        yield from decoder.decode(packet)
    yield from decoder.decode(None)


def _open(data: bytes) -> Any:
    """Containers are told by their first bytes and opened with that demuxer only; a playlist opens no other file."""
    if data[4:8] == b"ftyp":
        name = "mp4"
    elif data[:4] == b"\x1a\x45\xdf\xa3":
        name = "matroska"
    else:
        raise ClipError("not an MP4, MOV, MKV or WebM clip" if data else "zero bytes")
    return av.open(io.BytesIO(data), format=name)


def _stream(container: Any) -> Any:
    if not container.streams.video:
        raise ClipError("no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "NONE"  # one worker, one core: threads would fight over it
    _check_pixels(stream.codec_context.width, stream.codec_context.height)
    return stream


def _packets(container: Any, stream: Any) -> list[Any]:
    return [packet for packet in container.demux(stream) if packet.size]


def _check_pixels(width: int, height: int) -> None:
    if width * height > MAX_FRAME_PIXELS:
        raise ClipError(f"{width}x{height} pixels are more than the cap of {MAX_FRAME_PIXELS}")


def _span(shown: list[tuple[int, int]]) -> int:
    """Ticks from the first frame to the end of the last, from (timestamp, length) in order."""
    first, (last, length) = shown[0][0], shown[-1]
    return last - first + (length or (last - first) // max(1, len(shown) - 1))


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


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until stdin ends."""
    while line := requests.readline():
        request = json.loads(line)
        data = requests.read(request["bytes"])
        # the system ends this process when the processor time is used up, wherever the decoder is then
        signal.setitimer(signal.ITIMER_PROF, request["cpu_seconds"])
        try:
            if request["do"] == "facts":
                end = facts(data)
            else:
                end = {}
                for tick, pixels in frames(data, **request["frames"]):
                    _write(answers, {"tick": tick, "shape": pixels.shape})
                    answers.write(np.ascontiguousarray(pixels).data)
        except ClipError as error:
            end = {"error": str(error)}
        except MemoryError:
            end = {"error": "the decoder needs too much memory"}
        except Exception as error:  # FFmpeg's errors come as a dozen types; all of them mean this clip is bad
            end = {"error": f"damaged or unreadable clip: {error}"}
        _write(answers, end)
        answers.flush()


def _write(answers: BinaryIO, head: dict[str, Any]) -> None:
    line = json.dumps(head).encode()
    answers.write(len(line).to_bytes(4, "big") + line)


if __name__ == "__main__":
    memory = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    with os.fdopen(os.dup(1), "wb") as pipe:
        os.dup2(2, 1)  # what a library prints must not get between the answers
        serve(sys.stdin.buffer, pipe)
