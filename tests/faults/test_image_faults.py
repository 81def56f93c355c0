"""Bad images, by the numbers of the table of faults: what must happen, on real damaged files.

DROP means that the header reader, which the index calls, refuses the file; TOMB that decoding does.
"""

from __future__ import annotations

import resource
import struct
import time
import zlib
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.facts import MediaError
from neo_lightning.data.media.image import decode_image, image_facts, smart_resize
from neo_lightning.types import PixelBudget, Stage
from tests.data.data_helpers import chat, encoded, make_tokenizer, picture, write_tar

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def shown(data: bytes) -> np.ndarray:
    return decode_image(data, image_facts(data)).permute(1, 2, 0).numpy()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bytes, *, bits: int = 8, colour: int = 2, more: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + more + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.98])
def test_fault_08_a_zero_byte_or_cut_jpeg_is_refused(keep: float) -> None:
    data = encoded(picture(640, 480), "JPEG", quality=95)
    with pytest.raises(MediaError):
        shown(data[: int(len(data) * keep)])


@pytest.mark.parametrize("size", [(480, 640), (224, 320), (32, 64)])
def test_fault_08_a_cut_is_found_at_every_size_that_is_decoded(size: tuple[int, int]) -> None:
    data = encoded(picture(640, 480), "JPEG", quality=95)
    facts = image_facts(data)
    with pytest.raises(MediaError, match="damaged"):
        decode_image(data[: len(data) // 2], facts, size)


def test_fault_09_content_decides_the_format() -> None:
    image = picture(40, 24)
    assert np.array_equal(shown(encoded(image, "PNG")), np.asarray(image)), "a PNG, whatever its name says"
    for name, data in {
        "PostScript, not an image: make a picture of each page": b"%!PS-Adobe-3.0 EPSF-3.0\n%%EndComments\n",
        "SVG is not decoded: convert it": b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'/>",
        "ICO is not decoded: convert it": encoded(image, "ICO"),
        "JPEG 2000 is not decoded: convert it": encoded(image, "JPEG2000"),
        "PDF, not an image": encoded(image, "PDF"),
        "HTML page, not an image: perhaps a server's error page": b"<!DOCTYPE html><html><body>404</body></html>",
        "Git LFS pointer, not an image: fetch": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "HEIC is not decoded": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "HEIC is not": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic",
        "JPEG XL is not decoded": b"\xff\x0a\xfa\x7f\x01",
        "Photoshop is not decoded": b"8BPS\0\1" + b"\0" * 30,
        "camera raw is not decoded": b"II*\0\x10\0\0\0CR\2\0",
        "MP4, not an image: name it as video": b"\0\0\0\x18ftypisom\0\0\0\0isom",
        "not an image in a known format": b"nothing that anybody knows",
    }.items():
        with pytest.raises(MediaError, match=name):
            image_facts(data)


def test_fault_10_golden_pixels_of_cmyk_alpha_palette_grey_and_one_bit() -> None:
    cmyk = Image.merge("CMYK", [Image.new("L", (8, 8), level) for level in (255, 0, 0, 0)])
    assert np.abs(shown(encoded(cmyk, "JPEG", quality=100))[4, 4].astype(int) - [0, 255, 255]).max() <= 2
    palette = Image.new("P", (3, 1))
    palette.putpalette([200, 10, 20, 0, 90, 0, 1, 2, 3])
    palette.putdata([0, 1, 2])
    data = encoded(palette, "PNG", transparency=bytes([255, 128, 0]))
    assert shown(data)[0].tolist() == [[200, 10, 20], [127, 172, 127], [255, 255, 255]]
    grey = Image.fromarray(np.array([[0, 100, 255]], np.uint8))
    assert shown(encoded(grey, "PNG"))[0].tolist() == [[0] * 3, [100] * 3, [255] * 3]
    one_bit = Image.fromarray(np.array([[True, False]]))
    assert shown(encoded(one_bit, "PNG"))[0].tolist() == [[255] * 3, [0] * 3]
    with_alpha = Image.fromarray(np.array([[[10, 255], [10, 0], [10, 51]]], np.uint8), "LA")
    assert shown(encoded(with_alpha, "PNG"))[0].tolist() == [[10] * 3, [255] * 3, [206] * 3]
    keyed = png(2, 1, b"\0" + bytes([9, 8, 7, 1, 2, 3]), more=chunk(b"tRNS", struct.pack(">HHH", 9, 8, 7)))
    assert shown(keyed)[0].tolist() == [[255, 255, 255], [1, 2, 3]]


def test_fault_11_sixteen_bits_are_scaled() -> None:
    levels = np.arange(0, 65536, 257, dtype=np.uint16)[None]
    assert np.array_equal(shown(encoded(Image.fromarray(levels), "PNG"))[0, :, 0], np.arange(256))
    colours = b"\0" + struct.pack(">HHH", 0x1212, 0x8080, 0xFFFF)
    assert shown(png(1, 1, colours, bits=16))[0, 0].tolist() == [0x12, 0x80, 0xFF]


def test_fault_12_orientation_is_known_before_planning_and_broken_exif_is_ignored() -> None:
    exif = Image.Exif()
    exif[274] = 8
    data = encoded(picture(64, 32), "JPEG", exif=exif)
    facts = image_facts(data)
    assert (facts.width, facts.height) == (32, 64)
    assert decode_image(data, facts).shape == (3, 64, 32)
    at = data.index(b"Exif\0\0") + 6
    for junk in (b"\xff" * 8, b"II*\0\xff\xff\xff\x7f", b"\0" * 8):
        assert shown(data[:at] + junk + data[at + 8 :]).shape == (32, 64, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_fault_13_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    first = shown(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
    assert first.shape == (16, 16, 3)
    assert first[..., 0].min() > 200
    assert first[..., 2].max() < 50


def test_fault_14_a_line_of_pixels_is_refused_before_it_is_planned() -> None:
    facts = image_facts(encoded(Image.new("RGB", (20000, 1)), "PNG"))
    with pytest.raises(MediaError, match="aspect ratio of 20000x1"):
        smart_resize(facts.height, facts.width, PixelBudget())
    facts = image_facts(data := encoded(Image.new("RGB", (6400, 32)), "PNG"))
    size = smart_resize(facts.height, facts.width, PixelBudget(min_pixels=1024, max_pixels=1 << 20))
    assert decode_image(data, facts, size).shape[1:] == size, "what is not refused has its planned size"


def gif_bomb() -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", 60000, 60000, 0, 0, 0) + b"\x2c" + b"\0" * 40


def webp_bomb() -> bytes:
    data = encoded(Image.new("RGB", (16, 16), (1, 2, 3)), "WEBP", lossless=True)
    at = data.index(b"VP8L") + 9  # 14 bits each of width - 1 and height - 1
    return data[:at] + b"\xff\xff\xff" + bytes([data[at + 3] | 0x0F]) + data[at + 4 :]


def jpeg_bomb() -> bytes:
    data = encoded(picture(64, 64), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65000, 65000) + data[at + 4 :]


@pytest.mark.parametrize(
    "bomb",
    [
        lambda: png(20000, 20000, b"\0" * 60001 * 200),
        lambda: png(64, 64, b"\0" * 64, more=chunk(b"zTXt", b"k\0\0" + zlib.compress(b"\0" * (1 << 25), 9))),
        gif_bomb,
        webp_bomb,
        jpeg_bomb,
        lambda: encoded(Image.new("RGB", (8, 8)), "BMP").replace(
            struct.pack("<ii", 8, 8), struct.pack("<ii", 1 << 30, 8)
        ),
    ],
    ids=["png", "png-text", "gif", "webp", "jpeg", "bmp"],
)
def test_fault_15_a_decompression_bomb_is_refused_in_little_memory_and_time(bomb: Callable[[], bytes]) -> None:
    data = bomb()
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    start = time.process_time()
    try:
        resource.setrlimit(resource.RLIMIT_AS, (taken + (512 << 20), before[1]))
        with pytest.raises(MediaError):
            shown(data)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < 1.0


def test_fault_15_a_jpeg_of_endless_scans_is_refused() -> None:
    data = encoded(picture(2000, 2000), "JPEG", progressive=True)
    assert image_facts(data).width == 2000, "an honest progressive JPEG"
    scan = data.rindex(b"\xff\xda")
    with pytest.raises(MediaError, match="scans"):
        image_facts(data[:-2] + data[scan:-2] * 600 + b"\xff\xd9")


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_fault_16_another_size_than_the_planned_one_is_a_tombstone(format: str) -> None:
    facts = image_facts(encoded(picture(64, 48), format))
    for other in (picture(48, 64), picture(65, 48), picture(640, 480)):
        with pytest.raises(MediaError, match="expected were 64x48"):
            decode_image(encoded(other, format), facts)


def test_fault_16_a_png_with_too_few_rows_is_a_tombstone() -> None:
    row = b"\0" + b"\1" * 192
    assert shown(png(64, 48, row * 48)).shape == (48, 64, 3)
    assert shown(png(64, 48, (b"\0" + b"\0" * 192) * 48)).max() == 0, "black to its last row"
    short = png(64, 4000, row * 48)
    with pytest.raises(MediaError, match="fewer rows"):
        decode_image(short, image_facts(short))


@pytest.mark.parametrize("too_long", ["drop", "rescale"])
def test_fault_27_a_sample_longer_than_the_context_is_dropped_or_made_smaller_never_cut(
    too_long: Literal["drop", "rescale"], tmp_path: Path
) -> None:
    image = encoded(picture(512, 512))
    small = {"b.json": chat("<image>", "no"), "b.png": encoded(picture(64, 64))}
    write_tar(tmp_path / "a.tar", {"a.json": chat("<image>", "yes"), "a.png": image, **small})
    (tmp_path / "m.yaml").write_text("sources: {s: {modality: image, shards: a.tar}}\n")
    make_tokenizer(tmp_path / "tokenizer")
    budget = PixelBudget(min_pixels=1024, max_pixels=1 << 20)
    stage = Stage(steps=1, context=128, packs_per_step=1, mixture={"s": 1.0}, lr=1e-3, image=budget, too_long=too_long)
    data = NeoDataModule(str(tmp_path / "m.yaml"), {"only": stage}, str(tmp_path / "tokenizer"))
    data.setup()
    rows = [row for step in islice(iter(data.train_dataloader()), 4) for row in step]
    keys = {key for row in rows for key in row.info.keys}
    assert keys == ({"s/b"} if too_long == "drop" else {"s/a", "s/b"})
    assert [key for key, _ in data.skipped.take()] == ["s/a"]
    for row in rows:
        assert not row.info.tombstones
        units = row.grids.long().prod(-1).sum()
        assert row.patches.shape[0] == units == 4 * len(row.visual_index), "every image is whole"
