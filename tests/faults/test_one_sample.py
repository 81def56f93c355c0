"""One sample never ends the rest: values that no list of ours knows, formats by name, and limits that are no fault.

Each reader is fed what its libraries might return some day: unknown kinds of pixels, formats, orientations, matrices,
codecs and streams. Wanted is a reason or a picture of the size that was planned, never another error.
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from neo_lightning.data.facts import MediaError, MediaFacts, SampleError, SampleFacts, Turn, costs_one_sample
from neo_lightning.data.index import scan
from neo_lightning.data.index.check import check_source
from neo_lightning.data.index.table import Columns
from neo_lightning.data.media import image as images
from neo_lightning.data.media.formats import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from neo_lightning.data.media.image import decode_image, image_facts
from neo_lightning.data.media.video import decode_frames, video_facts
from neo_lightning.data.store import Store
from neo_lightning.importers import import_dataset
from tests.data.data_helpers import chat, clip, encoded, picture, textured, write_tar

FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def read(data: bytes, kind: str = "image") -> MediaFacts | None:
    """Facts of what can be shown as planned; None where a reason is given."""
    try:
        facts = image_facts(data) if kind == "image" else video_facts(data)
        if facts.ticks is not None:
            assert facts.width * facts.height < 1 << 22, "of the inputs below"
        shown = [decode_image(data, facts)] if facts.ticks is None else decode_frames(data, facts, [0])
    except MediaError as error:
        reason = str(error)
    else:
        assert tuple(shown[0].shape) == (3, facts.height, facts.width)
        turns = (Turn(role="user", parts=(0,)), Turn(role="assistant", parts=("x",)))
        Columns().add(SampleFacts(key="k", modality=kind, turns=turns, media=(facts,)))
        return facts
    assert reason.strip()
    assert "/" not in reason, "no path"
    return None


def mpo(orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(picture(96, 64), "MPO", save_all=True, append_images=[picture(48, 32)], exif=exif)


def test_several_pictures_in_one_jpeg_are_decoded_as_the_first() -> None:
    with Image.open(io.BytesIO(mpo())) as opened:
        assert opened.format == "MPO", "what no list of formats held"
    facts = read(mpo(6))
    assert facts is not None
    assert (facts.format, facts.width, facts.height) == ("JPEG", 64, 96)
    damaged = mpo().replace(b"MPF\0II*\0", b"MPF\0\xff\xff\xff\xff")
    assert damaged != mpo()
    assert read(damaged) is not None, "the first picture is sound"


def test_large_profiles_and_texts_of_a_png_are_passed_over() -> None:
    profile = np.random.RandomState(0).bytes(1_400_000)
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "a" * 3_000_000, zip=True)
    plain = np.asarray(picture(96, 64))
    for data in (encoded(picture(96, 64), icc_profile=profile), encoded(picture(96, 64), pnginfo=text)):
        with pytest.raises(ValueError, match="MAX_TEXT_CHUNK"):
            Image.open(io.BytesIO(data), formats=("PNG",))
        assert np.array_equal(decode_image(data, image_facts(data)).permute(1, 2, 0).numpy(), plain)


@given(
    st.sampled_from(["LAB", "HSV", "F", "I", "BGR;15", "I;32", "", "XYZ9", "RGB", "L"]),
    st.sampled_from(["MPO", "JPEG", "NEW", None, 7]),
    st.sampled_from([0, 1, 5, 9, -1, 2**31, "6", (6, 6), b"\6", None, 6.0]),
    st.sampled_from([{}, {"transparency": "?"}, {"exif": 5}, {"exif": b"\xff" * 40}, {"dpi": None}]),
)
@FUZZ
def test_values_of_pillow_that_no_list_knows(mode: str, format: Any, orientation: Any, info: dict[str, Any]) -> None:
    class Changed(JpegImagePlugin.JpegImageFile):
        def _open(self) -> None:
            super()._open()
            self._mode, self.format = mode, format
            self.info.update(info)

    def get(self: Image.Exif, tag: int, default: Any = None) -> Any:
        return orientation

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JpegImagePlugin, "JpegImageFile", Changed)
        if orientation is not None:
            patch.setattr(Image.Exif, "get", get)
        facts = read(encoded(picture(40, 24), "JPEG"))
        if facts is not None:
            assert facts.format == "JPEG"
            assert 1 <= facts.orientation <= 8


@pytest.mark.parametrize("error", [IndexError("tuple.index(x): x not in tuple"), KeyError("new"), AttributeError("x")])
def test_an_error_of_any_type_while_decoding_is_the_samples_and_is_named(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(40, 24))
    facts = image_facts(data)

    def fail(self: Any) -> None:
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", fail)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", fail, raising=False)
    with pytest.raises(MediaError, match=f"damaged image: {type(error).__name__}"):
        decode_image(data, facts)


def test_reasons_hold_no_paths_or_numbers_of_libraries() -> None:
    data = encoded(picture(640, 480), "JPEG", quality=95)
    with pytest.raises(MediaError) as told:
        decode_image(data[: len(data) // 2], image_facts(data))
    assert str(told.value) == "damaged image: decode_jpeg Image is incomplete or truncated"
    with pytest.raises(MediaError) as told:
        video_facts(b"\0\0\0\x18ftypisom" + b"\0" * 99)
    assert "Errno" not in str(told.value)
    assert "none" not in str(told.value)
    with pytest.raises(SampleError, match=r"^this: OSError$"), costs_one_sample("this"):
        raise OSError
    with pytest.raises(SampleError, match=r"^this: Is a directory$"), costs_one_sample("this"):
        raise IsADirectoryError(21, "Is a directory")


def boxed(mp4: bytes, kind: bytes, body: bytes) -> bytes:
    """The clip with another box in its picture's description, all lengths made right; `moov` has to be the last."""
    at = mp4.index(b"avcC") - 4
    new = mp4[:at] + struct.pack(">I", 8 + len(body)) + kind + body + mp4[at:]
    out = bytearray(new)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"):
        place = mp4.index(name) - 4
        out[place : place + 4] = struct.pack(">I", int.from_bytes(out[place : place + 4], "big") + 8 + len(body))
    return bytes(out)


MP4 = textured(4)
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


BROKEN = {
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC is not decoded"),
    "cut": (encoded(picture(), "JPEG")[:40], "damaged"),
    "empty": (b"", "zero bytes"),
    "pdf": (b"%PDF-1.4\n", "PDF, not an image"),
    "clip": (MP4, "MP4, not an image"),
}


def members(good: Callable[[], bytes]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, (data, _) in BROKEN.items():
        found |= {f"{name}.json": chat("<image>", "x"), f"{name}.jpg": data}
        found |= {f"after_{name}.json": chat("<image>", "x"), f"after_{name}.jpg": good()}
    return found


def test_check_names_shard_member_and_reason_and_goes_on(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "a.tar", members(mpo))
    report = check_source([str(shard)], "image", Store(), decode=True)
    assert report.samples == len(BROKEN)
    assert not report.refused
    found = dict(report.left_out)
    assert set(found) == set(BROKEN)
    for name, (_, reason) in BROKEN.items():
        assert reason in found[name]
        assert found[name].startswith(f"'{name}.jpg'")
        assert found[name].endswith("[a.tar]")


def test_check_by_decoding_names_shard_and_member(tmp_path: Path) -> None:
    data = encoded(picture(200, 200), "JPEG", quality=95)
    good = {"a.json": chat("<image>", "x"), "a.jpg": data, "c.json": chat("<image>", "x"), "c.jpg": data}
    cut = {"b.json": chat("<image>", "x"), "b.jpg": data[: len(data) // 2]}
    shard = write_tar(tmp_path / "s.tar", {**good, **cut})
    report = check_source([str(shard)], "image", Store(), decode=True)
    assert report.samples == 2
    assert [(key, reason[:7], reason[-7:]) for key, reason in report.left_out] == [("b", "'b.jpg'", "[s.tar]")]


def test_a_shard_that_is_replaced_while_it_is_checked_ends_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(picture(), "JPEG")
    shards = [
        str(write_tar(tmp_path / f"{n}.tar", {f"{n}.json": chat("<image>", "x"), f"{n}.jpg": data})) for n in "ab"
    ]
    check_source(shards, "image", Store())
    whole = Path(shards[0]).read_bytes()
    at, stamp = whole.index(data), Path(shards[0]).stat()
    Path(shards[0]).write_bytes(whole[:at] + data[:-4] + b"????" + whole[at + len(data) :])
    os.utime(shards[0], ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    report = check_source(shards, "image", Store(), decode=True, workers=0)
    assert list(report.refused) == [shards[0]]
    assert "CRC32" in report.refused[shards[0]]


def test_an_error_that_nobody_foresaw_costs_the_index_one_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strange = encoded(picture(48, 48), "JPEG")

    def reader(data: bytes) -> MediaFacts:
        if data == strange:
            raise IndexError("tuple.index(x): x not in tuple")
        return image_facts(data)

    monkeypatch.setattr(scan, "image_facts", reader)
    good = encoded(picture(64, 64), "JPEG")
    files = {f"{i}.{e}": chat("<image>", "x") if e == "json" else good for i in range(3) for e in ("json", "jpg")}
    shard = write_tar(tmp_path / "a.tar", files | {"1.jpg": strange})
    report = check_source([str(shard)], "image", Store())
    assert report.samples == 2
    assert report.left_out == [
        ("1", "cannot be read: IndexError: tuple.index(x): x not in tuple [a.tar]"),
    ]


def test_an_import_names_the_users_own_file_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, (data, _) in BROKEN.items():
        (tmp_path / "in" / f"{name}.jpg").write_bytes(data)
    (tmp_path / "in" / "good.jpg").write_bytes(mpo())
    names = [*BROKEN, "good"]
    records = [json.dumps({"image": f"{name}.jpg", **json.loads(chat("<image>", "x"))}) for name in names]
    (tmp_path / "all.jsonl").write_text("\n".join(records))
    report = import_dataset("llava", [tmp_path / "all.jsonl"], tmp_path / "out", media=tmp_path / "in")
    assert report.samples == {"image": 1}
    log = [json.loads(line) for line in (tmp_path / "out" / "import.log").read_text().splitlines()]
    assert len(log) == len(BROKEN)
    for entry, (name, (_, reason)) in zip(log, BROKEN.items(), strict=True):
        assert "all.jsonl" in entry["record"]
        assert entry["reason"].startswith(f"'{name}.jpg': ")
        assert reason in entry["reason"]


def test_known_formats_have_an_extension_and_a_place_in_shards(tmp_path: Path) -> None:
    """A format that is not decoded leaves out its sample; its extension must not refuse the shard."""
    assert set(IMAGE_EXTENSIONS).isdisjoint(VIDEO_EXTENSIONS)
    files = {}
    for extension in ("heic", "avif", "tiff", "jxl", "jpg"):
        data = encoded(picture(), "TIFF" if extension == "tiff" else "JPEG") if extension in ("tiff", "jpg") else b"?"
        files |= {f"{extension}.json": chat("<image>", "x"), f"{extension}.{extension}": data}
    report = check_source([str(write_tar(tmp_path / "a.tar", files))], "image", Store())
    assert report.samples == 2
    assert len(report.left_out) == 3
    assert images.BLANK == 128
