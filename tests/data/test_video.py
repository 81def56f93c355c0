from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import skimage.data
import torch
from data_helpers import clip, picture
from PIL import Image

from neo_lightning.data.facts import MediaError, MediaFacts
from neo_lightning.data.media.video import choose_moments, decode_frames, video_facts
from neo_lightning.data.media.video.decoder import groups
from neo_lightning.types import VideoBudget


def levels(data: bytes, facts: MediaFacts, indices: list[int]) -> list[int]:
    """Which frame each picture is: frame i is grey 10 + 15 i."""
    return [round((float(p.float().mean()) - 10) / 15) for p in decode_frames(data, facts, indices)]


@pytest.mark.parametrize(("format", "codec"), [("mp4", "libx264"), ("matroska", "libx264"), ("webm", "libvpx-vp9")])
def test_facts_and_frames(format: str, codec: str) -> None:
    data = clip(12, fps=6, format=format, codec=codec)
    facts = video_facts(data)
    assert (facts.width, facts.height) == (64, 48)
    assert facts.duration == pytest.approx(2.0, abs=0.01)
    assert facts.ticks is not None
    assert len(facts.ticks) == 12
    assert levels(data, facts, [0, 3, 4, 11]) == [0, 3, 4, 11]


def test_moments_are_spread_evenly_inside_the_clip() -> None:
    facts = video_facts(clip(12, fps=6))
    seconds, frames = choose_moments(facts, VideoBudget(fps=None, max_frames=4))
    assert np.allclose(seconds, [0.25, 0.75, 1.25, 1.75])
    assert frames.tolist() == [1, 4, 7, 10]
    seconds, frames = choose_moments(facts, VideoBudget(fps=3.0, max_frames=100))
    assert len(frames) == 6
    assert len(choose_moments(facts, VideoBudget(fps=100.0, max_frames=100))[1]) == 12, "never more than there are"
    assert len(choose_moments(facts, VideoBudget(fps=100.0, max_frames=5))[1]) == 5, "the cap"
    assert len(choose_moments(facts, VideoBudget(fps=0.01))[1]) == 1


def test_variable_frame_rate_is_sampled_by_time() -> None:
    # ten frames in the first second, then one that stays for nine
    ticks = [60 * i for i in range(10)] + [600, 5940]
    data = clip(12, ticks=ticks, format="matroska")
    facts = video_facts(data)
    seconds, frames = choose_moments(facts, VideoBudget(fps=None, max_frames=5))
    assert frames[0] == 9 if seconds[0] < 1 else frames[0] == 10
    assert frames.tolist()[1:4] == [10, 10, 10]
    assert levels(data, facts, frames.tolist()) == frames.tolist()


@dataclass
class Packet:
    pts: int
    is_keyframe: bool
    is_discard: bool = False


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0], [(0, 1)]),
        ([1, 2], [(0, 4)]),  # shown in another order than decoded
        ([5], [(4, 6)]),  # the group before is passed over
        ([0, 5], [(0, 1), (4, 6)]),
        ([3, 4, 9], [(0, 2), (4, 5), (8, 9)]),
        ([7], [(4, 10)]),  # an open group: shown before its key frame, leans on the group before
        ([7, 9], [(4, 10)]),
        ([11], [(8, 11)]),
        ([], []),
    ],
)
def test_only_groups_with_wanted_frames_are_decoded_and_only_as_far(
    wanted: list[int], expected: list[tuple[int, int]]
) -> None:
    in_decoding_order = [0, 3, 1, 2, 4, 5, 6, 8, 9, 7, 11, 10]
    packets = [Packet(pts, i in (0, 4, 8)) for i, pts in enumerate(in_decoding_order)]
    assert groups(packets, wanted) == expected


@pytest.mark.parametrize("x264", ["open-gop=1", "open-gop=0", "intra-refresh=1"])
def test_passing_over_frames_changes_no_pixel(x264: str) -> None:
    """Frames that nothing leans on are not decoded, and groups are passed over: against decoding everything."""
    scene = np.asarray(picture(128, 64, 3))
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"bf": "3", "b-pyramid": "normal", "b-adapt": "0", "x264-params": x264}
        stream = container.add_stream("libx264", rate=12, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 64, "yuv420p", 10
        for i in range(40):
            window = np.ascontiguousarray(scene[:, i : i + 64])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(window, format="rgb24")))
        container.mux(stream.encode())
    data = buffer.getvalue()
    facts = video_facts(data)
    everything = decode_frames(data, facts, range(40))
    for wanted in ([5], [12], [9, 10, 11], [0, 19, 38], list(range(1, 40, 7)), [39]):
        assert all(map(torch.equal, decode_frames(data, facts, wanted), [everything[i] for i in wanted])), wanted


def test_frames_are_resized_as_pillow_does() -> None:
    with Image.open(Path(skimage.data.__file__).parent / "astronaut.png") as image:
        photo = image.convert("RGB")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 512, 512, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_image(photo)))
        container.mux(stream.encode())
    data = buffer.getvalue()
    facts = video_facts(data)
    (whole,) = decode_frames(data, facts, [0])
    for side in (224, 256, 448):
        (frame,) = decode_frames(data, facts, [0], (side, side))
        shown = Image.fromarray(whole.permute(1, 2, 0).numpy()).resize((side, side), Image.Resampling.BICUBIC)
        error = np.mean((frame.permute(1, 2, 0).numpy() - np.asarray(shown, float)) ** 2)
        assert 10 * np.log10(255**2 / error) > 38


def test_every_cut_is_dropped_or_fails_when_read() -> None:
    for data in (clip(24), clip(24, faststart=True), clip(24, fps=3, format="matroska")):
        for share in (0.0, 0.02, 0.2, 0.5, 0.8, 0.95):
            cut = data[: int(len(data) * share)]
            with pytest.raises(MediaError):
                decode_frames(cut, video_facts(cut), list(range(24)))


def test_damaged_h264_is_an_error_not_a_crash() -> None:
    data = clip(24, faststart=True)
    facts = video_facts(data)
    start = data.index(b"mdat") + 200
    noise = np.random.RandomState(0).bytes(len(data) - start)
    with pytest.raises(MediaError):
        decode_frames(data[:start] + noise, facts, list(range(24)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"#EXTM3U\n#EXTINF:5,\n/etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\0\0\0\x18ftypisom" + b"\0" * 99,
    ],
)
def test_what_is_no_clip_is_refused(data: bytes) -> None:
    with pytest.raises(MediaError):
        video_facts(data)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_rotation_is_the_same_in_facts_and_frames(degrees: int) -> None:
    data = rotate(clip(3, size=(64, 48)), degrees)
    facts = video_facts(data)
    assert (facts.width, facts.height) == ((64, 48) if degrees == 180 else (48, 64))
    (frame,) = decode_frames(data, facts, [1])
    assert frame.shape == (3, facts.height, facts.width)
    plain = clip(3, size=(64, 48))
    (upright,) = decode_frames(plain, video_facts(plain), [1])
    assert torch.equal(frame, torch.rot90(upright, degrees // 90, (1, 2)))


def rotate(mp4: bytes, degrees: int) -> bytes:
    """Write a display matrix into the track header: the players' and cameras' way to turn a clip."""
    matrices = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}
    a, b, c, d = matrices[degrees]
    at = mp4.index(b"tkhd") + 4 + 4 + 20 + 8 + 8
    one = 0x10000
    entries = [a * one, b * one, 0, c * one, d * one, 0, 0, 0, 0x40000000]
    packed = b"".join(e.to_bytes(4, "big", signed=True) for e in entries)
    return mp4[:at] + packed + mp4[at + 36 :]


def test_random_damage_is_an_error_of_the_sample_or_harmless() -> None:
    data = clip(8, faststart=True)
    random = np.random.RandomState(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in random.randint(0, len(data), 4):
            damaged[place] = random.randint(256)
        try:
            facts = video_facts(bytes(damaged))
            seconds, frames = choose_moments(facts, VideoBudget(fps=None, max_frames=4))
            shown = decode_frames(bytes(damaged), facts, frames.tolist())
        except MediaError:
            continue
        assert len(shown) == len(seconds)
