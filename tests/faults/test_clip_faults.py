"""Bad clips, by the numbers of the table of faults: what must happen, on real damaged files.

DROP means that the header reader, which the index calls, refuses the file; TOMB that decoding does.
"""

from __future__ import annotations

import io
import signal
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from neo_lightning.data.facts import MediaError
from neo_lightning.data.media.video import choose_moments, decode_frames, video_facts
from neo_lightning.data.media.video.process import ClipDecoder
from neo_lightning.types import VideoBudget
from tests.data.data_helpers import clip, textured


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


class Pipe:
    """A file that cannot go back to write the duration into its head, as in a live recording."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def getvalue(self) -> bytes:
        return b"".join(self.parts)


def muxed(packets: list[tuple[bytes, bool]], width: int, height: int, stream_to: Pipe | None = None) -> bytes:
    """VP9 frames (data, is a key frame), ten a second, as a WebM clip."""
    buffer = stream_to or io.BytesIO()
    with av.open(buffer, "w", format="webm") as container:
        stream = container.add_stream("libvpx-vp9", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i, (data, key) in enumerate(packets):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, 100 * i, 100 * i, Fraction(1, 1000)
            packet.duration, packet.is_keyframe = 100, key
            container.mux_one(packet)
    return buffer.getvalue()


def vp9_key_frame(width: int, height: int) -> bytes:
    encoder = av.CodecContext.create("libvpx-vp9", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = width, height, "yuv420p", Fraction(1, 10)
    encoder.options = {"deadline": "realtime", "cpu-used": "8"}
    grey = av.VideoFrame(width, height, "yuv420p")
    for plane in grey.planes:
        plane.update(bytes([90]) * plane.buffer_size)
    grey.pts = 0
    return bytes([*encoder.encode(grey), *encoder.encode()][0])


@pytest.fixture(scope="module")
def endless() -> bytes:
    """A clip of some kilobytes that takes many seconds to decode: a large key frame, many times over."""
    return muxed([(vp9_key_frame(2048, 2048), True)] * 600, 2048, 2048)


def test_fault_16_a_clip_that_changes_its_size_is_a_tombstone() -> None:
    data = muxed([(vp9_key_frame(64, 48), True)] * 3 + [(vp9_key_frame(96, 64), True)] * 3, 64, 48)
    facts = video_facts(data)
    assert decode_frames(data, facts, [0, 2])[0].shape == (3, 48, 64)
    with pytest.raises(MediaError, match="96x64"):
        decode_frames(data, facts, [0, 4])


def test_fault_17_damage_that_the_decoder_hides_is_found() -> None:
    """A decoder conceals what it cannot read. Wanted are frames behind the damage, which look whole."""
    data = textured()
    facts = video_facts(data)
    whole = decode_frames(data, facts, [3, 11, 20])
    random = np.random.RandomState(0)
    start, stop = data.index(b"mdat") + 800, data.index(b"moov") - 8
    refused = equal = 0
    for _ in range(30):
        damaged = bytearray(data)
        for place in random.randint(start, stop, 6):
            damaged[place] ^= 1 << random.randint(8)
        try:
            frames = decode_frames(bytes(damaged), facts, [3, 11, 20])
        except MediaError:
            refused += 1
        else:
            equal += all(map(torch.equal, frames, whole))
    assert refused >= 24
    assert refused + equal >= 28, "H.264 has no checksums: a change that is valid again cannot be seen"


@pytest.mark.parametrize(("limit", "said"), [("cpu_seconds", "0.3 s of processor time"), ("wall_seconds", "0.3 s")])
def test_fault_17_a_decoder_that_comes_to_no_end_is_ended(endless: bytes, limit: str, said: str) -> None:
    decoder = ClipDecoder()
    good = textured(4)
    assert decoder.facts(good)["width"] == 96
    before = getattr(decoder, limit)
    setattr(decoder, limit, 0.3)
    with pytest.raises(MediaError, match=f"more than {said}"):
        decoder.frames(endless, ticks=list(range(0, 60000, 100)), shown=[2048, 2048], size=[32, 32])
    setattr(decoder, limit, before)
    assert decoder.facts(good)["width"] == 96, "the next clip has a new decoder"


def test_fault_17_a_decoder_that_nobody_waits_for_any_more_is_ended(endless: bytes) -> None:
    decoder = ClipDecoder()
    good = textured(4)
    decoder.facts(good)
    child = decoder._child
    assert child is not None

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(KeyboardInterrupt):
            decoder.frames(endless, ticks=list(range(0, 60000, 100)), shown=[2048, 2048], size=[32, 32])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert child.wait(10) == -signal.SIGKILL
    assert decoder.facts(good)["width"] == 96, "the next clip has a new decoder"


def test_fault_17_a_decoder_that_wants_all_memory_or_dies_costs_one_clip(endless: bytes) -> None:
    good = textured(4)
    probe = ClipDecoder()
    probe.facts(good)
    child = probe._child
    assert child is not None
    status = Path(f"/proc/{child.pid}/status").read_text()
    peak = int(status.partition("VmPeak:")[2].split()[0]) << 10
    small = ClipDecoder(memory=peak + (8 << 20))
    with pytest.raises(MediaError, match="memory"):
        small.frames(endless, ticks=[0], shown=[2048, 2048], size=[2048, 2048])
    assert small.facts(good)["width"] == 96
    child.kill()
    child.wait()
    with pytest.raises(MediaError, match="SIGKILL"):
        probe.facts(good)
    assert probe.facts(good)["width"] == 96


def test_fault_18_a_cut_clip_is_refused_by_the_index() -> None:
    for data in (clip(24, faststart=True), textured(48, format="matroska")):
        assert video_facts(data)
        for share in (0.3, 0.6, 0.9):
            with pytest.raises(MediaError):
                video_facts(data[: int(len(data) * share)])


def test_fault_19_frames_of_a_variable_rate_are_chosen_by_time() -> None:
    data = clip(12, ticks=[60 * i for i in range(10)] + [600, 5940], format="matroska")  # in 1/600 s
    facts = video_facts(data)
    _, frames = choose_moments(facts, VideoBudget(fps=None, max_frames=5))
    assert frames.tolist()[1:4] == [10, 10, 10]
    greys = [round((float(p.float().mean()) - 10) / 15) for p in decode_frames(data, facts, frames.tolist())]
    assert greys == frames.tolist()


def test_fault_20_rotation_is_the_same_in_the_index_and_in_pixels() -> None:
    upright = textured(3)
    at = upright.index(b"tkhd") + 44
    one = 0x10000
    matrix = b"".join(n.to_bytes(4, "big", signed=True) for n in (0, -one, 0, one, 0, 0, 0, 0, 0x40000000))
    turned = upright[:at] + matrix + upright[at + 36 :]
    facts = video_facts(turned)
    assert (facts.width, facts.height) == (64, 96)
    (frame,), (plain,) = decode_frames(turned, facts, [1]), decode_frames(upright, video_facts(upright), [1])
    assert torch.equal(frame, torch.rot90(plain, 1, (1, 2)))
    (small,) = decode_frames(turned, facts, [1], (96, 32))
    assert small.shape == (3, 96, 32)


def test_fault_21_no_video_or_no_duration_is_dropped_and_a_long_clip_is_subsampled() -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        silence.planes[0].update(bytes(silence.planes[0].buffer_size))
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(MediaError, match="no video stream"):
        video_facts(buffer.getvalue())
    with pytest.raises(MediaError, match="no duration"):
        video_facts(muxed([(vp9_key_frame(64, 48), True)] * 3, 64, 48, stream_to=Pipe()))
    facts = video_facts(clip(60, fps=30))
    seconds, frames = choose_moments(facts, VideoBudget(fps=30.0, max_frames=7))
    again = choose_moments(facts, VideoBudget(fps=30.0, max_frames=7))
    assert len(frames) == 7
    assert np.array_equal(frames, again[1])
    assert np.allclose(np.diff(seconds), facts.duration / 7)


def test_fault_22_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(clip(3))
    for data in (
        f"#EXTM3U\n#EXTINF:5,\n{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {secret}\n",
        f"<MPD><Period><BaseURL>{secret}</BaseURL></Period></MPD>",
        f"v=0\nc=IN IP4 127.0.0.1\na=control:{secret}\n",
    ):
        for bytes_ in (data.encode(), b"\0\0\0\x18ftypisom" + data.encode()):
            with pytest.raises(MediaError):
                video_facts(bytes_)
