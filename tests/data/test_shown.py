"""Pixels are what a browser or a player shows: turned, mirrored, of square pixels, trimmed, in the right colours.

Golden pixels are written out here; none is made by the package.
"""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction
from typing import Any

import av
import numpy as np
import pytest
import torch
from data_helpers import clip, encoded, textured
from PIL import Image, features

from neo_lightning.data.facts import MediaError
from neo_lightning.data.media.image import _part, decode_image, image_facts
from neo_lightning.data.media.video import choose_moments, decode_frames, video_facts
from neo_lightning.types import VideoBudget

CORNERS = {"A": (250, 10, 20), "B": (20, 240, 30), "C": (10, 30, 245), "D": (230, 220, 40)}
SHOWN = {1: "ABCD", 2: "BADC", 3: "DCBA", 4: "CDAB", 5: "ACBD", 6: "CADB", 7: "DBCA", 8: "BDAC"}
"""EXIF orientation -> upper left, upper right, lower left and lower right corner, of a picture stored as A B / C D."""

MATRICES = {
    1: (1, 0, 0, 1),
    2: (-1, 0, 0, 1),
    3: (-1, 0, 0, -1),
    4: (1, 0, 0, -1),
    5: (0, 1, 1, 0),
    6: (0, 1, -1, 0),
    7: (0, -1, -1, 0),
    8: (0, -1, 1, 0),
}
"""The same as a track's matrix (a, b, c, d): x' = a x + c y, y' = b x + d y."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def stored(width: int, height: int) -> np.ndarray:
    """A in the upper left quarter, B, C, D."""
    picture = np.empty((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2], picture[: height // 2, width // 2 :] = CORNERS["A"], CORNERS["B"]
    picture[height // 2 :, : width // 2], picture[height // 2 :, width // 2 :] = CORNERS["C"], CORNERS["D"]
    return picture


def corners(pixels: torch.Tensor) -> str:
    """Which colour each quarter's middle shows."""
    _, height, width = pixels.shape
    found = ""
    for y in (height // 4, height * 3 // 4):
        for x in (width // 4, width * 3 // 4):
            colour = pixels[:, y, x].numpy().astype(int)
            distance = {name: np.abs(colour - golden).max() for name, golden in CORNERS.items()}
            name = min(distance, key=lambda n: distance[n])
            found += name if distance[name] <= 12 else "?"  # of JPEG and H.264 with colours at half the resolution
    return found


def turned(orientation: int, format: str, size: tuple[int, int], **options: Any) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    return encoded(Image.fromarray(stored(*size)), format, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("part", [1, 2, 4, 8])
def test_all_orientations_of_a_jpeg_at_full_and_at_reduced_decoding(orientation: int, part: int) -> None:
    data = turned(orientation, "JPEG", (1024, 512), quality=95)
    facts = image_facts(data)
    sides = {1: (512, 1024), 2: (256, 512), 4: (64, 128), 8: (32, 64)}[part]
    assert _part((512, 1024), sides) == part
    assert (_part((512, 1024), (512, 64)), _part((512, 1024), (64, 512))) == (1, 2), "the side that is reduced least"
    size = sides if orientation < 5 else sides[::-1]
    assert (facts.height, facts.width) == ((512, 1024) if orientation < 5 else (1024, 512))
    pixels = decode_image(data, facts, size)
    assert tuple(pixels.shape[1:]) == size
    assert corners(pixels) == SHOWN[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "MPO"])
def test_all_orientations_of_all_formats(orientation: int, format: str) -> None:
    if format == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = turned(orientation, format, (96, 64), **({"save_all": True, "quality": 95} if format == "MPO" else {}))
    facts = image_facts(data)
    assert (facts.width, facts.height) == ((96, 64) if orientation < 5 else (64, 96))
    assert corners(decode_image(data, facts)) == SHOWN[orientation]
    assert corners(decode_image(data, facts, (32, 32))) == SHOWN[orientation]


def quartered(frames: int = 3, *, format: str = "mp4", size: tuple[int, int] = (96, 64), **options: str) -> bytes:
    """A clip of the four colours."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "8", **options})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for _ in range(frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(stored(*size), format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def with_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """A display matrix in the track's header, in units of 1 / 65536."""
    at = mp4.index(b"tkhd") + 44
    return mp4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_of_a_clip(orientation: int) -> None:
    data = with_matrix(quartered(), *(n << 16 for n in MATRICES[orientation]))
    facts = video_facts(data)
    assert (facts.width, facts.height) == ((96, 64) if orientation < 5 else (64, 96))
    for size in (None, (32, 64), (64, 32)):
        for frame in decode_frames(data, facts, [0, 2], size):
            assert tuple(frame.shape[1:]) == (size or (facts.height, facts.width))
            assert corners(frame) == SHOWN[orientation]


def test_a_clip_turned_by_no_right_angle_is_left_out_by_the_index() -> None:
    with pytest.raises(MediaError, match="rotated by -45 degrees; only multiples of 90"):
        video_facts(with_matrix(quartered(), 46341, 46341, -46341, 46341))
    for matrix in ((0, 0, 0, 0), (65536, 65536, 65536, 65536)):
        nothing = video_facts(with_matrix(quartered(), *matrix))
        assert (nothing.width, nothing.height) == (96, 64), "a matrix that leaves no plane says nothing"


@pytest.mark.parametrize("format", ["mp4", "mov", "matroska", "avi", "mpegts"])
@pytest.mark.parametrize(
    ("shape", "shown"), [((2, 1), (192, 64)), ((1, 2), (96, 128)), ((16, 11), (140, 64)), ((1, 1), (96, 64))]
)
def test_a_clip_is_shown_with_square_pixels(format: str, shape: tuple[int, int], shown: tuple[int, int]) -> None:
    data = quartered(format=format, bf="0", **{"x264-params": f"sar={shape[0]}/{shape[1]}"})
    facts = video_facts(data)
    assert (facts.width, facts.height) == shown
    (frame,) = decode_frames(data, facts, [0])
    assert tuple(frame.shape) == (3, shown[1], shown[0])
    assert corners(frame) == "ABCD"
    assert corners(decode_frames(data, facts, [1], (32, 96))[0]) == "ABCD"


def test_a_clip_of_oblong_pixels_is_stretched_before_it_is_turned() -> None:
    data = with_matrix(quartered(**{"x264-params": "sar=2/1"}), 0, 1 << 16, -1 << 16, 0)
    facts = video_facts(data)
    assert (facts.width, facts.height) == (64, 192)
    assert corners(decode_frames(data, facts, [0])[0]) == SHOWN[6]


def test_a_clip_that_its_pixels_stretch_beyond_the_cap_is_left_out() -> None:
    with pytest.raises(MediaError, match="40960x1024 pixels are more than the cap"):
        video_facts(quartered(1, size=(2048, 1024), preset="ultrafast", **{"x264-params": "sar=20/1"}))


def trimmed(mp4: bytes, *, start: int, milliseconds: int) -> bytes:
    """The clip with an edit list that shows so much of it from a tick on, as lossless cutters write it."""
    at = mp4.index(b"elst") + 12
    first = int.from_bytes(mp4[at + 4 : at + 8], "big")
    return mp4[:at] + struct.pack(">Ii", milliseconds, first + start) + mp4[at + 8 :]


@pytest.mark.parametrize("format", ["mp4", "mov"])
def test_of_a_trimmed_clip_only_what_is_visible_counts(format: str) -> None:
    whole = textured(36, gop=12, format=format)  # 12 frames a second, frames lean on each other
    facts = video_facts(whole)
    assert facts.ticks is not None
    tick = int(facts.ticks[1] - facts.ticks[0])
    everything = decode_frames(whole, facts, range(36))
    data = trimmed(whole, start=15 * tick, milliseconds=1000)
    part = video_facts(data)
    assert part.ticks is not None
    assert len(part.ticks) == 12
    assert part.duration == pytest.approx(1.0, abs=0.01)
    for got, index in zip(decode_frames(data, part, range(12)), range(15, 27), strict=True):
        assert torch.equal(got, everything[index])
    seconds, chosen = choose_moments(part, VideoBudget(fps=None, max_frames=4))
    assert (seconds[0], seconds[-1]) == (pytest.approx(0.125, abs=0.01), pytest.approx(0.875, abs=0.01))
    assert chosen.tolist() == [1, 4, 7, 10]


def test_a_trimmed_clip_that_is_cut_is_still_found() -> None:
    whole = clip(24, faststart=True)
    facts = video_facts(whole)
    assert facts.ticks is not None
    short = trimmed(whole, start=int(facts.ticks[9]), milliseconds=1000)
    assert video_facts(short).duration == pytest.approx(1.0, abs=0.01)
    with pytest.raises(MediaError, match="cut"):
        video_facts(short[:-20])


def test_a_clip_that_starts_late_is_counted_from_its_first_frame() -> None:
    data = clip(12, ticks=[6000 + 100 * i for i in range(12)], format="matroska")
    facts = video_facts(data)
    assert facts.ticks is not None
    assert facts.ticks[0] > 0
    assert facts.duration == pytest.approx(2.0, abs=0.01)
    assert choose_moments(facts, VideoBudget(fps=None, max_frames=4))[1].tolist() == [1, 4, 7, 10]


def plain_colour(
    yuv: tuple[int, int, int], *, pixels: str = "yuv420p", size: tuple[int, int] = (64, 64), **tags: int
) -> bytes:
    """A lossless clip of one colour, given in luma and chroma."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg" if pixels == "yuvj420p" else "ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        for i in range(2):
            frame = av.VideoFrame(*size, pixels)
            for plane, value in zip(frame.planes, yuv, strict=True):
                wide = value.to_bytes(2, "little") if "10" in pixels else bytes([value])
                plane.update(wide * (plane.buffer_size // len(wide)))
            frame.pts, frame.time_base = i, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


RED_601, RED_709, RED_601_FULL, RED_709_FULL = (81, 90, 240), (63, 102, 240), (76, 85, 255), (54, 99, 255)
"""Red by ITU-R BT.601 and BT.709, in the range 16..235 and in 0..255."""


@pytest.mark.parametrize(
    ("yuv", "options"),
    [
        (RED_601, {"colorspace": 5}),
        (RED_601, {"colorspace": 6}),
        (RED_709, {"colorspace": 1}),
        (RED_601, {}),  # a small clip that does not say is taken for BT.601
        (RED_709, {"size": (1280, 64)}),  # a large one for BT.709
        (RED_709, {"size": (64, 720)}),
        (RED_601, {"size": (1280, 64), "colorspace": 5}),
        (RED_601_FULL, {"color_range": 2}),
        (RED_709_FULL, {"color_range": 2, "colorspace": 1}),
        (RED_601_FULL, {"pixels": "yuvj420p"}),
        (tuple(4 * n for n in RED_709), {"pixels": "yuv420p10le", "colorspace": 1}),
    ],
)
def test_a_clips_colours_follow_its_matrix_and_range(yuv: tuple[int, int, int], options: dict[str, Any]) -> None:
    data = plain_colour(yuv, **options)
    facts = video_facts(data)
    for size in (None, (32, 32)):
        (frame,) = decode_frames(data, facts, [1], size)
        error = (frame[:, 16, 16].int() - torch.tensor([255, 0, 0])).abs().max()
        assert error <= 3, frame[:, 16, 16]  # of rounding luma and chroma to whole numbers


def test_hdr_that_needs_tone_mapping_is_left_out_by_name() -> None:
    data = plain_colour((4 * 81, 4 * 90, 4 * 240), pixels="yuv420p10le", colorspace=9, color_trc=16)
    with pytest.raises(MediaError, match=r"HDR \(PQ\).*convert the clip to SDR"):
        video_facts(data)
    assert video_facts(plain_colour((4 * 81, 4 * 90, 4 * 240), pixels="yuv420p10le", colorspace=9, color_trc=18))


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, rows: list[bytes], bits: int, colour: int, key: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, len(rows), bits, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", header) + chunk(b"tRNS", key) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize(
    ("bits", "colour", "row", "key", "golden"),
    [
        (1, 0, b"\x40", (0,), [[255] * 3, [255] * 3]),  # samples 0, 1
        (1, 0, b"\x40", (1,), [[0] * 3, [255] * 3]),
        (2, 0, b"\x60", (1,), [[255] * 3, [170] * 3]),  # samples 1, 2
        (4, 0, b"\x3a", (3,), [[255] * 3, [170] * 3]),  # samples 3, 10
        (8, 0, b"\x07\x09", (7,), [[255] * 3, [9] * 3]),
        (16, 0, struct.pack(">HH", 0x0707, 0x0708), (0x0707,), [[255] * 3, [7] * 3]),
        (8, 2, b"\1\2\3\1\2\4", (1, 2, 3), [[255] * 3, [1, 2, 4]]),
        (16, 2, struct.pack(">6H", 257, 514, 771, 257, 514, 1028), (257, 514, 771), [[255] * 3, [1, 2, 4]]),
    ],
)
def test_a_pngs_colour_key_shows_white(
    bits: int, colour: int, row: bytes, key: tuple[int, ...], golden: list[list[int]]
) -> None:
    data = png(2, [row], bits, colour, struct.pack(f">{len(key)}H", *key))
    assert decode_image(data, image_facts(data))[:, 0].T.tolist() == golden


def test_what_a_gif_leaves_open_shows_white() -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([200, 0, 0, 0, 90, 0, 0, 0, 0])
    image.putpixel((0, 0), 0)
    data = encoded(image, "GIF", transparency=0)
    pixels = decode_image(data, image_facts(data))
    assert pixels[:, 0, 0].tolist() == [255, 255, 255]
    assert pixels[:, 1, 3].tolist() == [0, 90, 0]
    larger = bytearray(encoded(image, "GIF"))
    larger[6:10] = struct.pack("<HH", 6, 5)  # the canvas; the first frame does not cover it
    pixels = decode_image(bytes(larger), image_facts(bytes(larger)))
    assert tuple(pixels.shape) == (3, 5, 6)
    assert pixels[:, 0, 0].tolist() == [200, 0, 0]
    assert pixels[:, 0, 3].tolist() == [0, 90, 0]
    assert pixels[:, 4, 0].tolist() == pixels[:, 0, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_still_is_shown_with_square_pixels_where_exif_says_so_twice(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x0128], exif[0x011A], exif[0x011B] = orientation, 2, 36.0, 72.0
    exif.get_ifd(0x8769).update({0xA002: 192, 0xA003: 64})
    data = encoded(Image.fromarray(stored(96, 64)), "JPEG", exif=exif, quality=95)
    facts = image_facts(data)
    shown = (192, 64) if orientation == 1 else (64, 192)
    assert (facts.width, facts.height) == shown
    for size in (None, (32, 64), (32, 32)):
        pixels = decode_image(data, facts, size)
        assert tuple(pixels.shape[1:]) == (size or shown[::-1])
        assert corners(pixels) == SHOWN[orientation]


def test_a_resolution_alone_stretches_nothing_as_in_browsers() -> None:
    image = Image.fromarray(stored(96, 64))
    for data in (encoded(image, "JPEG", dpi=(36, 72)), encoded(image, "PNG", dpi=(36, 72))):
        assert (image_facts(data).width, image_facts(data).height) == (96, 64)
    for unit, said in ((2, ()), (2, (96, 64)), (2, (192, 65)), (3, (192, 64)), (None, (192, 64))):
        exif = Image.Exif()
        exif[0x011A], exif[0x011B] = 36.0, 72.0
        if unit:
            exif[0x0128] = unit
        exif.get_ifd(0x8769).update(zip((0xA002, 0xA003), said, strict=False))
        data = encoded(image, "JPEG", exif=exif)
        assert (image_facts(data).width, image_facts(data).height) == (96, 64), (unit, said)


def test_orientation_of_a_png_counts_behind_its_pixels_too() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(Image.fromarray(stored(96, 64)), "PNG")
    late = data[:-12] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[-12:]
    facts = image_facts(late)
    assert (facts.width, facts.height) == (64, 96)
    assert corners(decode_image(late, facts)) == SHOWN[6]
