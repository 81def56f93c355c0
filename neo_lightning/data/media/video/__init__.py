"""Encoded clip -> chosen frames as RGB pixels.

Frames are chosen by presentation timestamps that the index read from the packets: n moments spread evenly inside the
clip, and for each moment the frame that is on screen. So a variable frame rate is right, and reading needs no count of
frames per second. Frames are converted to RGB and resized in one step, in the decoder's own process (`process.py`),
which also keeps what a damaged or hostile clip can do to one sample.

    __init__.py   facts, moments and frames: what the rest of the package calls
    process.py    the child process and its limits
    decoder.py    the program that it runs
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from neo_lightning.data.facts import MediaError, MediaFacts
from neo_lightning.data.media.video.process import ClipDecoder
from neo_lightning.types import VideoBudget

_thread = threading.local()
_STEP = 1e-6
"""Seconds that forgive the rounding of timestamps to the container's ticks."""


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
    return seconds, np.searchsorted(shown_at, seconds + _STEP, side="right") - 1


def video_facts(data: bytes) -> MediaFacts:
    """Timestamps from the packets, size from the first frame that is shown.

    Raises:
        MediaError: not a clip in a container that is decoded, no video stream, no duration, cut, too many pixels, a
            first frame that cannot be decoded or shown, or a decoder that does not come to an end.
    """
    found = _decoder().facts(data)
    return MediaFacts(
        kind="video",
        width=found["width"],
        height=found["height"],
        ticks=np.array(found["ticks"], dtype=np.int64),
        time_base=(found["time_base"][0], found["time_base"][1]),
        duration=found["duration"],
    )


def in_section(facts: MediaFacts, section: tuple[float, float] | None) -> MediaFacts:
    """The facts of a clip that is cut to a section: seconds from its first frame, the second of them exclusive.

    It begins with the first frame that comes within; where none does, it is the one that is on screen then.

    Raises:
        MediaError: nothing is shown between them.
    """
    if section is None:
        return facts
    assert facts.ticks is not None
    start, until = section[0], min(section[1], facts.duration)
    if not 0 <= start < until:
        raise MediaError(f"a section from {start:g} to {section[1]:g} s of a clip of {facts.duration:.2f} s")
    shown_at = (facts.ticks - facts.ticks[0]) * (facts.time_base[0] / facts.time_base[1])
    first, last = np.searchsorted(shown_at, (start - _STEP, until - _STEP)).tolist()
    if first == last:
        return replace(facts, ticks=facts.ticks[first - 1 : first], duration=until - start)
    return replace(facts, ticks=facts.ticks[first:last], duration=until - float(shown_at[first]))


def decode_frames(
    data: bytes, facts: MediaFacts, indices: Sequence[int], size: tuple[int, int] | None = None
) -> list[Tensor]:
    """The frames with these indices into `facts.ticks`, each [3, height, width] uint8.

    Resized to `size` (height, width) where given, by swscale's antialiased bicubic on luma and chroma (39 to 43 dB to
    Pillow's, which works on RGB).

    Raises:
        MediaError: a frame is missing or damaged or leans on a damaged one, has another size than the facts say, or
            the decoder does not come to an end.
    """
    assert facts.ticks is not None
    ticks = [int(facts.ticks[i]) for i in indices]
    shown = facts.height, facts.width
    target = size or shown
    found = _decoder().frames(data, ticks=sorted(set(ticks)), shown=shown[::-1], size=target[::-1])
    for pixels in found.values():
        if pixels.shape != (*target, 3):
            raise MediaError(f"a frame of {pixels.shape[1]}x{pixels.shape[0]} pixels")
    return [torch.from_numpy(found[tick]).permute(2, 0, 1) for tick in ticks]


def limit_decoder(*, cpu_seconds: float, wall_seconds: float, memory: int) -> None:
    """Bound what one clip may take in this thread, from now on; see `process.ClipDecoder`. Memory in bytes."""
    _thread.decoder = ClipDecoder(cpu_seconds, wall_seconds, memory)


def _decoder() -> ClipDecoder:
    if not hasattr(_thread, "decoder"):
        _thread.decoder = ClipDecoder()
    return _thread.decoder
