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
import math
import os
import re
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO

import av
import numpy as np
from av.stream import Disposition
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter

MAX_FRAME_PIXELS = 40_000_000
"""8192 x 4320 is 35 million."""

_CUT_TOLERANCE_SECONDS = 0.5
_BROADCAST = ("mpegts", "mpeg")
_SKEW = 0.01
"""What a display matrix may be off the axes by, and count as on them."""
_UNSPECIFIED = 2
"""Colour matrix of a clip that does not say."""
_PQ = 16
"""Transfer function of HDR10, as FFmpeg counts them. HLG (18) is made to be shown as it is, too."""
_HD_COLUMNS, _SD_LINES = 1280, 576
_SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


class ClipError(ValueError):
    """What is wrong with the clip."""


def facts(data: bytes, demuxer: str) -> dict[str, Any]:
    """Timestamps from the packets, size as shown from the first frame that is shown, which has to be whole.

    Returns:
        ticks (increasing), time_base [numerator, denominator] in seconds, duration in seconds from the first frame to
        the end of the last, width and height in pixels as shown.

    Raises:
        ClipError: no clip of this container, no video stream, no duration, cut, too many pixels, a first frame that
            cannot be decoded, or colours or a rotation that cannot be shown.
    """
    with _open(data, demuxer) as container:
        stream = _stream(container)
        base, read = stream.time_base, _packets(container, stream)
        packets = _playable(read, demuxer)
        timed = [p for p in packets if p.pts is not None]
        # what is shown before the first packet leans on frames that are not there; players leave it out too
        shown = sorted((p.pts, p.duration or 0) for p in timed if not p.is_discard and p.pts >= timed[0].pts)
        if not shown or base is None:
            raise ClipError("no frames with timestamps")
        width, height = _try_first(stream, packets, shown[0][0])
        if container.format.name == "avi":
            _check_order(stream.codec_context, packets)
        declared, said = stream.frames, _declared_seconds(container, stream)
        known = bool(said or container.duration)
    _check_pixels(width, height)
    ticks = [pts for pts, _ in shown]
    if len(set(ticks)) < len(ticks):
        raise ClipError("two frames share a timestamp")
    seconds = float(_span(shown) * base)
    if seconds <= 0 or not known:
        raise ClipError("no duration")
    end = seconds + max(0.0, float(ticks[0] * base))  # some containers count their length from 0, not the first frame
    if demuxer == "avi":  # counts frames that are repeated by leaving them empty; it knows its bytes
        if (size := int.from_bytes(data[4:8], "little") + 8) > len(data):
            raise ClipError(f"cut: {len(data)} of {size} bytes are there")
    elif len(read) < declared and (there := _untrimmed(data, demuxer)) < declared:
        raise ClipError(f"cut: {there} of {declared} frames are there")
    elif not declared and said - end > max(_CUT_TOLERANCE_SECONDS, 0.02 * said):
        raise ClipError(f"cut: frames end at {seconds:.2f} s of {said:.2f} s")
    return {
        "ticks": ticks,
        "time_base": [base.numerator, base.denominator],
        "duration": seconds,
        "width": width,
        "height": height,
    }


def frames(
    data: bytes, demuxer: str, ticks: list[int], shown: list[int], size: list[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """The frames with these timestamps, in the order in which they are decoded: (tick, [height, width, 3] uint8).

    Args:
        ticks: wanted timestamps.
        shown: [width, height] that every frame must have, in pixels as shown.
        size: [width, height] to resize to, as shown, by bicubic interpolation.

    Raises:
        ClipError: a frame is missing or damaged, or leans on a damaged one, or has another size.
    """
    missing, convert = set(ticks), VideoReformatter()
    with _open(data, demuxer) as container:
        stream = _stream(container)
        packets, decoder = _playable(_packets(container, stream), demuxer), stream.codec_context

        def run(start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
            for frame in _decode(decoder, packets[start:stop], missing.copy()):
                if frame.is_corrupt:  # wanted or not: those behind it are predicted from it
                    raise ClipError(f"damaged frame at timestamp {frame.pts}")
                if frame.pts not in missing:
                    continue
                if (found := shown_size(frame, stream.sample_aspect_ratio)) != tuple(shown):
                    raise ClipError(f"a frame of {found[0]}x{found[1]} pixels, not {shown[0]}x{shown[1]}")
                missing.remove(frame.pts)
                yield frame.pts, _picture(convert, frame, (size[0], size[1]))
            if lost := [p.pts for p in packets[start:stop] if p.pts in missing and not p.is_discard]:
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


def shown_size(frame: Any, pixel_shape: Fraction | None) -> tuple[int, int]:
    """(width, height) as shown: turned, and of square pixels, never fewer than are stored.

    Args:
        frame: a decoded frame.
        pixel_shape: width to height of a stored pixel; None where nothing is said.
    """
    width, height, shape = frame.width, frame.height, pixel_shape or 1
    width, height = (round(width * shape), height) if shape >= 1 else (width, round(height / shape))
    return (height, width) if turn(frame)[0] else (width, height)


def turn(frame: Any) -> tuple[bool, bool, bool]:
    """How a frame is turned and mirrored by its display matrix: transposed, then mirrored in x, then in y.

    Raises:
        ClipError: by no multiple of 90 degrees.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    # x' = a x + c y, y' = b x + d y, with y downwards; its scale is in the shape of a pixel already
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), "=i4").astype(float)
    if a * d - b * c == 0:  # says nothing
        return False, False, False
    if max(abs(b), abs(c)) <= _SKEW * min(abs(a), abs(d)):
        return False, bool(a < 0), bool(d < 0)
    if max(abs(a), abs(d)) <= _SKEW * min(abs(b), abs(c)):
        return True, bool(c < 0), bool(b < 0)
    raise ClipError(f"rotated by {-math.degrees(math.atan2(b, a)):.0f} degrees; only multiples of 90 can be shown")


def _picture(convert: VideoReformatter, frame: Any, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] uint8 RGB, turned, of this size (width, height) as shown."""
    transposed, mirrored_x, mirrored_y = turn(frame)
    width, height = size[::-1] if transposed else size
    # the matrix of colours that players take where a clip does not say: that of HD for what is larger than SD
    large = frame.width >= _HD_COLUMNS or frame.height > _SD_LINES
    guess = Colorspace.ITU709 if frame.colorspace == _UNSPECIFIED and large else None
    try:
        found = convert.reformat(
            frame, width, height, "rgb24", src_colorspace=guess, interpolation=_SCALING, threads=1
        ).to_ndarray()
    except MemoryError:  # PyAV's is an FFmpegError as well
        raise
    except av.FFmpegError as error:
        kind = f"pixels of kind {frame.format.name} with colour matrix {int(frame.colorspace)}"
        raise ClipError(f"{kind} cannot be converted to RGB: convert the clip to 8-bit BT.709") from error
    found = found.transpose(1, 0, 2) if transposed else found
    found = found[:, ::-1] if mirrored_x else found
    return found[::-1] if mirrored_y else found


def _try_first(stream: Any, packets: list[Any], first: int) -> tuple[int, int]:
    """Decode up to the first shown frame and convert it: (width, height) as shown."""
    decoder = stream.codec_context
    try:
        frame = next(f for f in _decode(decoder, packets, {first}) if f.is_corrupt or f.pts is None or f.pts >= first)
    except (StopIteration, av.FFmpegError) as error:
        raise ClipError("its first frame cannot be decoded") from error
    if frame.is_corrupt or frame.pts != first:
        raise ClipError("its first frame cannot be decoded")
    if decoder.color_trc == _PQ:
        raise ClipError("HDR (PQ), which is grey without tone mapping: convert the clip to SDR")
    size = shown_size(frame, stream.sample_aspect_ratio)
    _picture(VideoReformatter(), frame, (32, 32))
    decoder.flush_buffers()
    return size


def _check_order(decoder: Any, packets: list[Any]) -> None:
    """AVI holds no timestamps: FFmpeg counts them, which is wrong where frames are stored in another order."""
    shown = [frame.pts for frame in islice(_decode(decoder, packets), 32)]
    if None in shown or shown != sorted(shown):
        raise ClipError("AVI with frames stored out of order, which has no timestamps: convert it to MP4 (H.264)")
    decoder.flush_buffers()


def groups(packets: list[Any], wanted: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges [start, stop) of packets that hold the wanted timestamps, each starting at a key frame."""
    wanted, keys = set(wanted), [0]
    found: list[tuple[int, int]] = []
    for i, packet in enumerate(packets):
        if packet.is_keyframe:
            keys.append(i)
        if packet.pts in wanted and not packet.is_discard:
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


def _open(data: bytes, demuxer: str, **options: str) -> Any:
    """Opened with one demuxer only, of the parent's list; none of those opens another file than these bytes."""
    return av.open(io.BytesIO(data), format=demuxer, options=options)


def _stream(container: Any) -> Any:
    stream = container.streams.best("video")
    if stream is None:
        raise ClipError("no video stream")
    if stream.disposition & Disposition.attached_pic:
        raise ClipError("no video stream, but a cover picture")
    if stream.codec_context is None:
        raise ClipError("video in a codec that FFmpeg does not decode: convert the clip to MP4 (H.264)")
    stream.thread_type = "NONE"  # one worker, one core: threads would fight over it
    _check_pixels(stream.codec_context.width, stream.codec_context.height)
    return stream


def _packets(container: Any, stream: Any) -> list[Any]:
    return [packet for packet in container.demux(stream) if packet.size]


def _playable(packets: list[Any], demuxer: str) -> list[Any]:
    """Of a broadcast, which is joined anywhere, what comes from the first key frame on; of a file everything."""
    if demuxer not in _BROADCAST:
        return packets
    return packets[next((i for i, packet in enumerate(packets) if packet.is_keyframe), 0) :]


def _untrimmed(data: bytes, demuxer: str) -> int:
    """Packets with those that an edit list leaves out: losslessly trimmed clips hold more than they show."""
    with _open(data, demuxer, ignore_editlist="1") as container:
        return len(_packets(container, _stream(container)))


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
                end = facts(data, request["demuxer"])
            else:
                end = {}
                for tick, pixels in frames(data, request["demuxer"], **request["frames"]):
                    _write(answers, {"tick": tick, "shape": pixels.shape})
                    answers.write(np.ascontiguousarray(pixels).data)
        except ClipError as error:
            end = {"error": str(error)}
        except MemoryError:
            end = {"error": "the decoder needs too much memory"}
        except av.FFmpegError as error:
            end = {"error": f"damaged or unreadable clip: {error.strerror}"}
        except Exception as error:  # a library's values that nobody foresaw must not cost more than this clip
            end = {"error": f"damaged or unreadable clip: {type(error).__name__}: {error}"}
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
