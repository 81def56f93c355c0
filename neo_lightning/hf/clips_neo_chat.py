"""A clip in any form -> chosen frames at a wanted size, and the moments that they show.

Frames are chosen by presentation timestamps: n moments spread evenly inside the clip, and for each the frame that is on
screen then. So a variable frame rate is right. Rotation, mirroring and the shape of pixels are applied. PyAV decodes
files; each frame is converted to RGB and resized in one step, as in training.
"""

import io
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import av
import numpy as np
import torch
from av.video.reformatter import Colorspace, Interpolation, VideoReformatter
from PIL import Image
from torch import Tensor

from .pictures_neo_chat import load_picture, read_bytes, resize

PREFIX = (
    "The time range of this video is [00:00-{end}], and the following is a series of {frames} frames sampled at {fps} "
    "FPS.\n"
)
FRAME_LABEL = "[{time}]:"
"""Text in front of a clip and of each frame, with words to be filled in."""

_CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"
"""FFmpeg's names of what is opened; others open further files."""

_BROADCAST = ("mpegts", "mpeg")
_SCALING = int(Interpolation.BICUBIC) | 1 << 18
"""With FFmpeg's SWS_ACCURATE_RND, for which PyAV has a name since 18."""
_ONE_THREAD = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 18 else {}
"""Slices of several threads are rounded otherwise; earlier versions take one."""
_STEP = 1e-6
"""Seconds: forgives the rounding of timestamps to the container's ticks."""
_UNSPECIFIED, _PQ = 2, 16  # colour matrix, transfer function

T = TypeVar("T")


class MissingFrame(ValueError):
    """A frame does not come out of the decoder, or damaged."""


class EncodedClip:
    """A clip in a file, of which all packets are read and the first frame is decoded.

    `times` [n] are the seconds of its frames from the first one on, `duration` those to the end of the last; `height`
    and `width` are in pixels as shown.
    """

    def __init__(self, data: bytes) -> None:
        container: Any = av.open(io.BytesIO(data), options={"format_whitelist": _CONTAINERS})
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise ValueError("no video stream that FFmpeg decodes")
        self._container, self._decoder, self._pixel_shape = container, stream.codec_context, stream.sample_aspect_ratio
        packets = [packet for packet in container.demux(stream) if packet.size]
        if container.format.name in _BROADCAST:  # joined anywhere
            packets = packets[next((i for i, packet in enumerate(packets) if packet.is_keyframe), 0) :]
        self._packets = packets
        timed = [packet for packet in packets if packet.pts is not None]
        # what is shown before the first packet leans on frames that are not there
        shown = sorted((p.pts, p.duration or 0) for p in timed if not p.is_discard and p.pts >= timed[0].pts)
        if not shown or stream.time_base is None:
            raise ValueError("no frames with timestamps")
        self._ticks = [pts for pts, _ in shown]
        (first, _), (last, length) = shown[0], shown[-1]
        span = last - first + (length or (last - first) // max(1, len(shown) - 1))
        self.duration = float(span * stream.time_base)
        if self.duration <= 0:
            raise ValueError("no duration")
        seconds = stream.time_base.numerator / stream.time_base.denominator
        self.times = (np.array(self._ticks, dtype=np.int64) - first) * seconds
        self.width, self.height = self._decode({first}, self._size)[first]
        if self._decoder.color_trc == _PQ:
            raise ValueError("HDR (PQ), which is grey without tone mapping: convert the clip to SDR")

    def frames(self, indices: list[int], height: int, width: int) -> Tensor:
        """[n, 3, height, width] uint8.

        Raises:
            ValueError: a frame is missing or damaged, or has another size than the first.
        """
        convert = VideoReformatter()

        def picture(frame: Any) -> Tensor:
            if (size := self._size(frame)) != (self.width, self.height):
                raise ValueError(f"a frame of {size[0]}x{size[1]} pixels in a clip of {self.width}x{self.height}")
            return torch.from_numpy(np.ascontiguousarray(_picture(convert, frame, width, height)))

        found = self._decode({self._ticks[i] for i in indices}, picture)
        return torch.stack([found[self._ticks[i]] for i in indices]).permute(0, 3, 1, 2)

    def _decode(self, wanted: set[int], read: Callable[[Any], T]) -> dict[int, T]:
        """Timestamp -> what is read of its frame; of a group of pictures only what stands before a wanted one."""
        at = {packet.pts: i for i, packet in enumerate(self._packets) if packet.pts in wanted and not packet.is_discard}
        starts: dict[int, set[int]] = {}
        for tick in sorted(wanted):
            keys = (k for k in range(at[tick], -1, -1) if self._packets[k].is_keyframe)
            # a frame that is shown before its key frame leans on the group before that
            start = next((k for k in keys if (self._packets[k].pts or 0) <= tick), 0)
            starts.setdefault(start, set()).add(tick)
        found: dict[int, T] = {}
        for start, ticks in starts.items():
            try:
                found |= self._run(start, ticks, read)
            except MissingFrame:
                if start == 0:
                    raise
                # where pictures are refreshed part by part, decoding cannot start at this key frame
                found |= self._run(0, ticks, read)
        return found

    def _run(self, start: int, wanted: set[int], read: Callable[[Any], T]) -> dict[int, T]:
        found: dict[int, T] = {}
        try:
            for frame in self._all(start):
                if frame.is_corrupt:  # those behind it are predicted from it
                    break
                if frame.pts in wanted:
                    found[frame.pts] = read(frame)
                    if len(found) == len(wanted):
                        return found
        finally:
            self._decoder.flush_buffers()
        raise MissingFrame(f"the frame with timestamp {min(wanted - found.keys())} is missing or damaged")

    def _all(self, start: int) -> Iterator[Any]:
        first = self._packets[start].pts
        for packet in self._packets[start:]:
            if first is None or packet.pts is None or packet.pts >= first:  # others lean on frames before the key frame
                yield from self._decoder.decode(packet)
        yield from self._decoder.decode(None)

    def _size(self, frame: Any) -> tuple[int, int]:
        """(width, height) as shown: turned, and of square pixels, never fewer than are stored."""
        width, height, shape = frame.width, frame.height, self._pixel_shape or 1
        width, height = (round(width * shape), height) if shape >= 1 else (width, round(height / shape))
        return (height, width) if _turn(frame)[0] else (width, height)


class DecodedClip:
    """Frames that somebody else decoded and perhaps chose: [n, H, W, 3] or [n, 3, H, W] uint8, or a list of pictures.

    Args:
        frames: they.
        metadata: `fps` of the clip, and `frames_indices` (0, 1, ... where absent): which of its frames these are; its
            length is `duration` or `total_num_frames / fps`.
    """

    def __init__(self, frames: Any, metadata: Any) -> None:
        self._frames = [load_picture(frame) for frame in frames]
        self.height, self.width = self._frames[0].height, self._frames[0].width
        said = dict(metadata or {})
        if not said.get("fps"):
            raise ValueError("frames alone do not say when they are shown: pass video_metadata with `fps`, or a file")
        indices = said.get("frames_indices")
        indices = np.arange(len(self._frames)) if indices is None else np.asarray(indices)
        if len(indices) != len(self._frames):
            raise ValueError(f"{len(self._frames)} frames, but frames_indices are {len(indices)}")
        self.times = indices / said["fps"]
        total = said.get("total_num_frames") or int(indices.max()) + 1
        self.duration = float(said.get("duration") or total / said["fps"])

    def frames(self, indices: list[int], height: int, width: int) -> Tensor:
        """[n, 3, height, width] uint8."""
        own = [(self._frames[i], self._frames[i].height, self._frames[i].width) for i in indices]
        return torch.stack([resize(frame.pixels(h, w), height, width) for frame, h, w in own])


class Section:
    """A clip that is cut: its frames from `start` to `until` (exclusive), in seconds from its first frame.

    It begins with the first frame that comes within; where none does, it is the one that is on screen then.
    """

    def __init__(self, clip: EncodedClip | DecodedClip, start: float, until: float) -> None:
        end = min(until, clip.duration)
        if not 0 <= start < end:
            raise ValueError(f"a section from {start:g} to {until:g} s of a clip of {clip.duration:.2f} s")
        first, last = np.searchsorted(clip.times, (start - _STEP, end - _STEP)).tolist()
        if last == 0:
            raise ValueError(f"a section until {end:g} s, but the first frame given is of {clip.times[0]:.2f} s")
        self.duration = end - float(clip.times[first]) if first < last else end - start
        first = min(first, last - 1)
        self._clip, self._first = clip, first
        self.times = clip.times[first:last] - clip.times[first]
        self.height, self.width = clip.height, clip.width

    def frames(self, indices: list[int], height: int, width: int) -> Tensor:
        """[n, 3, height, width] uint8."""
        return self._clip.frames([self._first + index for index in indices], height, width)


def load_clip(source: Any, metadata: Any) -> EncodedClip | DecodedClip | Section:
    """A clip from a path, address, base64 text or bytes; or from decoded frames, with what is known of them.

    With `section` (start, end) in its metadata only what is shown between these seconds.
    """
    decoded = isinstance(source, list | tuple) or hasattr(source, "ndim")
    clip = DecodedClip(source, metadata) if decoded else EncodedClip(read_bytes(source, "video"))
    section = dict(metadata or {}).get("section")
    return Section(clip, *section) if section else clip


def is_clip(value: Any) -> bool:
    """Whether it is one, and not a list of them; a list of pictures is one, too."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(x, Image.Image) or getattr(x, "ndim", 0) == 3 for x in value)
    return True


def choose_moments(
    times: np.ndarray, duration: float, fps: float | None, max_frames: int
) -> tuple[np.ndarray, np.ndarray]:
    """Moments to show, in seconds, and the frames on screen then (indices into `times`), each [n].

    Of each second `fps` frames, at most `max_frames` and at least one; without `fps` as many as `max_frames`. Never
    more than there are.
    """
    wanted = max_frames if fps is None else round(duration * fps)
    n = max(1, min(wanted, max_frames, len(times)))
    seconds = (np.arange(n) + 0.5) * (duration / n)
    return seconds, np.searchsorted(times, seconds + _STEP, side="right") - 1


def words_of_clip(moments: list[float], duration: float, prefix: str, frame_label: str) -> list[str]:
    """The text in front of a clip, and that in front of each of its frames.

    Plain replacement: a folder's text is no format string, which could look into objects.
    """
    count, end = str(len(moments)), int(duration)
    sentence = prefix.replace("{end}", f"{end // 60:02d}:{end % 60:02d}").replace("{frames}", count)
    words = [sentence.replace("{fps}", f"{len(moments) / duration:.1f}")]
    for moment in moments:
        hundredths = round(moment * 100)  # minutes do not wrap to hours
        time = f"{hundredths // 6000:02d}:{hundredths % 6000 // 100:02d}.{hundredths % 100:02d}"
        words.append(frame_label.replace("{time}", time))
    return words


def _turn(frame: Any) -> tuple[bool, bool, bool]:
    """By the frame's display matrix: transposed, then mirrored in x, then in y."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), "=i4").astype(float)  # x' = a x + c y, y' = b x + d y
    if a * d - b * c == 0:
        return False, False, False
    if max(abs(b), abs(c)) <= 0.01 * min(abs(a), abs(d)):
        return False, bool(a < 0), bool(d < 0)
    if max(abs(a), abs(d)) <= 0.01 * min(abs(b), abs(c)):
        return True, bool(c < 0), bool(b < 0)
    raise ValueError(f"rotated by {-math.degrees(math.atan2(b, a)):.0f} degrees; only multiples of 90 can be shown")


def _picture(convert: VideoReformatter, frame: Any, width: int, height: int) -> np.ndarray:
    """[height, width, 3] uint8 RGB as shown."""
    transposed, mirrored_x, mirrored_y = _turn(frame)
    if transposed:
        width, height = height, width
    # where a clip does not say, players take the colours of HD for what is larger than SD
    large = frame.width >= 1280 or frame.height > 576
    guess = Colorspace.ITU709 if frame.colorspace == _UNSPECIFIED and large else None
    found = convert.reformat(
        frame, width, height, "rgb24", src_colorspace=guess, interpolation=_SCALING, **_ONE_THREAD
    ).to_ndarray()
    found = found.transpose(1, 0, 2) if transposed else found
    found = found[:, ::-1] if mirrored_x else found
    return found[::-1] if mirrored_y else found
