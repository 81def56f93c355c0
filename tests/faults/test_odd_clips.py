"""Clips of any matrix, pixels, codec and container: a reason, or frames of the size that was planned."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from hypothesis import given
from hypothesis import strategies as st

from neo_lightning.data.facts import MediaError
from neo_lightning.data.index.check import check_source
from neo_lightning.data.media.formats import VIDEO_EXTENSIONS
from neo_lightning.data.media.video import decode_frames, video_facts
from neo_lightning.data.store import Store
from neo_lightning.importers import import_dataset
from tests.data.data_helpers import clip, encoded, picture, textured
from tests.faults.readers import FUZZ, MP4, read


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def boxed(mp4: bytes, kind: bytes, body: bytes) -> bytes:
    """The clip with another box in its picture's description, all lengths made right; `moov` has to be the last."""
    at = mp4.index(b"avcC") - 4
    new = mp4[:at] + struct.pack(">I", 8 + len(body)) + kind + body + mp4[at:]
    out = bytearray(new)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        place = mp4.index(name) - 4
        out[place : place + 4] = struct.pack(">I", int.from_bytes(out[place : place + 4], "big") + 8 + len(body))
    return bytes(out)


FIXED = st.integers(-(2**31), 2**31 - 1) | st.sampled_from([0, 1 << 16, -1 << 16, 46341])


@given(st.tuples(*[FIXED] * 4))
@FUZZ
def test_any_display_matrix(entries: tuple[int, ...]) -> None:
    at = MP4.index(b"tkhd") + 44
    a, b, c, d = entries
    read(MP4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + MP4[at + 36 :], "video")


@given(
    st.one_of(
        st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda n: (b"pasp", struct.pack(">II", *n))),
        st.sampled_from([(0, 0), (2**32 - 1, 1), (1, 2**32 - 1)]).map(lambda n: (b"pasp", struct.pack(">II", *n))),
        st.tuples(*[st.integers(0, 300)] * 3, st.sampled_from([0, 128, 255])).map(
            lambda n: (b"colr", b"nclx" + struct.pack(">HHHB", *n))
        ),
        st.tuples(st.binary(min_size=4, max_size=4), st.binary(max_size=24)),
    )
)
@FUZZ
def test_any_pixel_shape_colour_space_or_box(box: tuple[bytes, bytes]) -> None:
    read(boxed(MP4, *box), "video")


@given(st.binary(min_size=4, max_size=4) | st.sampled_from([b"zzzz", b"hev1", b"drac", b"mp4a", b"tx3g", b"dvhe"]))
@FUZZ
def test_any_codec(fourcc: bytes) -> None:
    read(MP4.replace(b"avc1", fourcc), "video")


def test_a_codec_that_is_not_there_is_named() -> None:
    with pytest.raises(MediaError, match="a codec that FFmpeg does not decode"):
        video_facts(MP4.replace(b"avc1", b"zzzz"))


@pytest.mark.parametrize("pixels", ["yuv444p", "yuv420p10le", "gray", "yuvj422p", "nv12", "gbrp"])
def test_any_kind_of_pixels_of_a_clip(pixels: str) -> None:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264rgb" if pixels == "gbrp" else "libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb24" if pixels == "gbrp" else pixels
        frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 120, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = buffer.getvalue()
    facts = read(data, "video")
    assert facts is not None
    (shown,) = decode_frames(data, facts, [0])
    assert (shown.int() - 120).abs().max() <= 4


def sound(with_cover: bool, format: str = "mp4") -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        track = container.add_stream("aac", rate=8000, layout="mono")
        if with_cover:
            cover = container.add_stream("mjpeg", rate=1)
            cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
            cover.disposition = Disposition.attached_pic
        silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        silence.planes[0].update(bytes(silence.planes[0].buffer_size))
        silence.sample_rate = 8000
        if with_cover:
            packet = av.Packet(encoded(picture(64, 48), "JPEG"))
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = cover, 0, 0, True
            container.mux_one(packet)
        container.mux(track.encode(silence))
        container.mux(track.encode())
    return buffer.getvalue()


def test_sound_and_a_cover_picture_are_no_clip() -> None:
    with pytest.raises(MediaError, match=r"no video stream$"):
        video_facts(sound(False))
    with pytest.raises(MediaError, match="no video stream, but a cover picture"):
        video_facts(sound(True))


def film(format: str, codec: str) -> bytes:
    """A clip whose frame i has grey level 10 + 15 * i."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(12):
            level = np.full((48, 64, 3), 10 + 15 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(level, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


CONTAINERS = {
    "avi": ("mpeg4", "avi"),
    "mov": ("libx264", "mov"),
    "3gp": ("libx264", "3gp"),
    "flv": ("libx264", "flv"),
    "mpegts": ("libx264", "ts"),
    "mpeg": ("mpeg1video", "mpg"),
    "asf": ("wmv2", "wmv"),
    "ogg": ("libvpx", "ogv"),
    "matroska": ("libx264", "mkv"),
    "webm": ("libvpx-vp9", "webm"),
}


@pytest.mark.parametrize("format", CONTAINERS)
def test_containers_that_are_read_safely_are_decoded_and_imported(format: str, tmp_path: Path) -> None:
    codec, extension = CONTAINERS[format]
    data = film(format, codec)
    facts = video_facts(data)
    assert facts.ticks is not None
    assert len(facts.ticks) == 12
    greys = [round((float(p.float().mean()) - 10) / 15) for p in decode_frames(data, facts, [0, 5, 11])]
    assert greys == [0, 5, 11]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"a.{extension}").write_bytes(data)
    (tmp_path / "in" / "a.txt").write_text("grey")
    assert import_dataset("folder", [tmp_path / "in"], tmp_path / "out").samples == {"video": 1}
    (shard,) = (tmp_path / "out").rglob("*.tar")
    assert check_source([str(shard)], "video", Store(), decode=True).samples == 1
    assert extension in VIDEO_EXTENSIONS


def test_an_avi_with_empty_frames_is_whole_and_a_cut_one_is_not() -> None:
    data = clip(12, format="avi", codec="mpeg4")  # in 1/600 s: 99 of 100 frames repeat the one before
    facts = video_facts(data)
    assert facts.ticks is not None
    assert len(facts.ticks) == 12
    assert facts.duration == pytest.approx(2.0, abs=0.2)
    with pytest.raises(MediaError, match=r"cut: .* bytes are there"):
        video_facts(data[: len(data) * 3 // 4])


def test_avi_of_a_decoder_that_holds_a_frame_back_is_in_order() -> None:
    facts = video_facts(film("avi", "mpeg2video"))
    assert facts.ticks is not None
    assert len(facts.ticks) == 12


def test_avi_whose_frames_are_stored_out_of_order_is_named() -> None:
    with pytest.raises(MediaError, match=r"AVI with frames stored out of order.*convert it to MP4"):
        video_facts(textured(24, format="avi"))


@pytest.mark.parametrize("part", [1.0, 0.1], ids=["not there", "concealed by the decoder"])
def test_a_clip_whose_first_frame_is_damaged_is_left_out_by_the_index(part: float) -> None:
    data = textured(36, gop=12)
    with av.open(io.BytesIO(data)) as container:
        packet = next(container.demux(container.streams.video[0]))
        start, stop = packet.pos, packet.pos + packet.size
    damaged = bytearray(data)
    zeros = int((stop - start) * part)
    damaged[stop - zeros : stop] = bytes(zeros)
    with pytest.raises(MediaError, match="its first frame cannot be decoded"):
        video_facts(bytes(damaged))


def test_a_recording_that_begins_between_key_frames_is_shown_from_the_first() -> None:
    data = textured(36, gop=12, format="mpegts")
    facts, later = video_facts(data), video_facts(data[: 188 * 3] + data[188 * 8 :])
    assert facts.ticks is not None
    assert later.ticks is not None
    assert 0 < len(later.ticks) < len(facts.ticks)
    assert set(later.ticks) <= set(facts.ticks)
    assert decode_frames(data, later, range(len(later.ticks)))
