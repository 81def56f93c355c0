from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from data_helpers import encoded, picture
from PIL import Image

from neo_lightning.data.facts import MediaError
from neo_lightning.data.media.image import decode_image, fit, image_facts, patchify, smart_resize
from neo_lightning.types import PixelBudget

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "smart_resize.json"
CASES = json.loads(GOLDEN.read_text())


def decode(data: bytes) -> np.ndarray:
    return decode_image(data, image_facts(data)).permute(1, 2, 0).numpy()


def flat(mode: str, colour: object, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new(mode, size, colour)  # type: ignore[arg-type]


def test_smart_resize_equals_the_authors() -> None:
    assert len(CASES) == 100
    for case in CASES:
        budget = PixelBudget(min_pixels=case["min_pixels"], max_pixels=case["max_pixels"])
        if case["resized"] is None:
            with pytest.raises(MediaError):
                smart_resize(case["height"], case["width"], budget)
        else:
            assert list(smart_resize(case["height"], case["width"], budget)) == case["resized"], case


def test_extreme_aspect_is_refused_by_the_numbers() -> None:
    assert smart_resize(32, 6400, PixelBudget(min_pixels=1024, max_pixels=1 << 20))
    with pytest.raises(MediaError, match="20000x1"):
        smart_resize(1, 20000, PixelBudget())


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "GIF", "JPEG"])
def test_formats_are_told_by_content(format: str) -> None:
    image = picture(40, 24)
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 98, "subsampling": 0}}.get(format, {})
    data = encoded(image, format, **options)
    tolerance = {"GIF": 60, "JPEG": 8}.get(format, 0)
    error = np.abs(decode(data).astype(int) - np.asarray(image).astype(int)).max()
    assert error <= tolerance


@pytest.mark.parametrize(
    ("image", "format", "expected"),
    [
        (flat("L", 77), "PNG", (77, 77, 77)),
        (flat("L", 77), "JPEG", (77, 77, 77)),
        (flat("1", 1), "PNG", (255, 255, 255)),
        (flat("LA", (0, 0)), "PNG", (255, 255, 255)),
        (flat("RGBA", (200, 0, 0, 255)), "PNG", (200, 0, 0)),
        (flat("RGBA", (200, 0, 0, 0)), "PNG", (255, 255, 255)),
        (flat("RGBA", (0, 0, 0, 128)), "PNG", (127, 127, 127)),
        (flat("RGBA", (0, 0, 0, 128)), "WEBP", (127, 127, 127)),
        (flat("I;16", 0x8080), "PNG", (128, 128, 128)),
        (flat("I;16", 0x00FF), "PNG", (1, 1, 1)),
        (flat("CMYK", (255, 0, 0, 0)), "JPEG", (0, 255, 255)),
        (flat("RGB", (9, 8, 7)).quantize(2), "PNG", (9, 8, 7)),
    ],
)
def test_conversions(image: Image.Image, format: str, expected: tuple[int, int, int]) -> None:
    pixels = decode(encoded(image, format, **({"lossless": True} if format == "WEBP" else {})))
    assert pixels.shape == (6, 8, 3)
    assert np.abs(pixels.astype(int) - np.array(expected)).max() <= 2


def test_palette_with_transparency_is_shown_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 1), 1)
    pixels = decode(encoded(image, "PNG", transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [40, 50, 60]


def test_sixteen_bit_colour_is_scaled() -> None:
    rows = b"".join(b"\0" + struct.pack(">HHH", 0x1234, 0x8080, 0xFFFF) * 5 for _ in range(3))

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 5, 3, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    pixels = decode(png)
    assert pixels.shape == (3, 5, 3)
    assert pixels[0, 0].tolist() == [0x12, 0x80, 0xFF]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_before_planning(orientation: int) -> None:
    image = picture(40, 24)
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(image, "PNG", exif=exif)
    facts = image_facts(data)
    assert (facts.width, facts.height) == ((40, 24) if orientation < 5 else (24, 40))
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    assert np.array_equal(decode(data), turn(np.asarray(image)))


@pytest.mark.parametrize("junk", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b""])
def test_broken_exif_is_ignored(junk: bytes) -> None:
    assert decode(encoded(picture(), "JPEG", exif=junk)).shape == (64, 64, 3)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    frames = [flat("RGB", (250, 0, 0), (16, 16)), flat("RGB", (0, 0, 250), (16, 16))]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:])
    pixels = decode(data)
    assert pixels.shape == (16, 16, 3)
    assert pixels[..., 0].min() > 200


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_every_cut_of_an_image_is_an_error_or_complete(format: str) -> None:
    image = picture(48, 48)
    data = encoded(image, format)
    whole = decode(data)
    failed = 0
    for size in range(0, len(data), max(1, len(data) // 60)):
        try:
            pixels = decode(data[:size])
        except MediaError:
            failed += 1
        else:
            assert np.array_equal(pixels, whole)
    assert failed > 50


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0" * 64,
    ],
)
def test_other_formats_are_refused(data: bytes) -> None:
    with pytest.raises(MediaError):
        image_facts(data)


def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    rows = zlib.compress(b"\0" * 1000)
    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")):
        png += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    with pytest.raises(MediaError, match="pixels"):
        image_facts(png)


def test_pixels_of_another_size_than_the_facts_are_refused() -> None:
    facts = image_facts(encoded(picture(64, 64)))
    with pytest.raises(MediaError, match="32x64"):
        decode_image(encoded(picture(32, 64)), facts)


def test_patches_are_row_major_and_flattened_channel_row_column() -> None:
    height, width = 64, 96
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    patches = patchify(pixels)
    assert patches.shape == (24, 768)
    for index in (0, 5, 6, 23):
        row, column = divmod(index, width // 16)
        block = pixels[:, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        assert torch.equal(patches[index], block.reshape(-1))


def psnr(ours: torch.Tensor, theirs: Image.Image) -> float:
    """dB between [3, h, w] and a picture of that size."""
    return 10 * np.log10(255**2 / max(1e-9, np.mean((ours.permute(1, 2, 0).numpy() - np.asarray(theirs, float)) ** 2)))


def photo(name: str) -> Image.Image:
    with Image.open(Path(skimage.data.__file__).parent / name) as image:
        return image.convert("RGB")


def test_fit_leaves_the_right_size_alone_and_equals_pillows_bicubic() -> None:
    image = photo("motorcycle_left.png")  # fine textures
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    assert fit(pixels, (image.height, image.width)) is pixels
    for width, height in ((608, 416), (192, 128), (800, 544)):
        assert psnr(fit(pixels, (height, width)), image.resize((width, height), Image.Resampling.BICUBIC)) > 70


@pytest.mark.parametrize(("name", "least"), [("motorcycle_left.png", 29.5), ("coffee.png", 40), ("astronaut.png", 40)])
def test_a_jpeg_decoded_at_a_part_of_its_size_is_near_pillows_bicubic(name: str, least: float) -> None:
    data = encoded(photo(name), "JPEG", quality=92)
    with Image.open(io.BytesIO(data)) as whole:
        facts = image_facts(data)
        for part in (2, 2.7, 4, 8, 12):  # of the photograph's sides
            size = int(facts.height / part), int(facts.width / part)
            theirs = whole.convert("RGB").resize((size[1], size[0]), Image.Resampling.BICUBIC)
            assert psnr(decode_image(data, facts, size), theirs) > least, part
        near = facts.height * 5 // 9, facts.width * 5 // 9  # half the size would be too small: nothing is left out
        theirs = whole.convert("RGB").resize((near[1], near[0]), Image.Resampling.BICUBIC)
        assert psnr(decode_image(data, facts, near), theirs) > 70


def test_a_turned_jpeg_is_turned_at_every_size() -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = picture(403, 215)  # no multiple of the parts
    data = encoded(image, "JPEG", exif=exif, quality=95)
    shown = image.transpose(Image.Transpose.ROTATE_270)
    for size in ((403, 215), (224, 128), (96, 32)):
        pixels = decode_image(data, image_facts(data), size)
        assert psnr(pixels, shown.resize((size[1], size[0]), Image.Resampling.BICUBIC)) > 35


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_random_damage_is_an_error_of_the_sample_or_harmless(format: str) -> None:
    data = encoded(picture(48, 40), format)
    random = np.random.RandomState(0)
    for _ in range(60):
        damaged = bytearray(data)
        for place in random.randint(0, len(data), 6):
            damaged[place] = random.randint(256)
        try:
            facts = image_facts(bytes(damaged))
            pixels = decode_image(bytes(damaged), facts)
        except MediaError:
            continue
        assert tuple(pixels.shape) == (3, facts.height, facts.width)


@pytest.mark.parametrize("frame", [0xC3, 0xC5, 0xCB])
def test_a_jpeg_that_can_never_be_decoded_is_left_out_by_its_header(frame: int) -> None:
    data = bytearray(encoded(picture(16, 16), "JPEG"))
    at = data.index(b"\xff\xc0")
    assert image_facts(bytes(data[:2] + b"\xff" + data[2:])).width == 16  # with a fill byte in front of a marker
    data[at + 1] = frame
    with pytest.raises(MediaError, match="JPEG of a kind that is not decoded"):
        image_facts(bytes(data))


def test_broken_exif_is_not_the_users_concern(recwarn: pytest.WarningsRecorder) -> None:
    exif = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\xff\0\0\0\0\0\0"
    data = encoded(picture(16, 16), "JPEG")
    data = data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]
    assert image_facts(data).orientation == 1
    assert not [warning for warning in recwarn if "EXIF" in str(warning.message)]
