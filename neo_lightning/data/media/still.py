"""Encoded image -> its header, and its pixels in RGB at their stored size, by Pillow.

Shown is what a browser shows, on white and without colour management: alpha and colour keys show the white behind them,
what the first frame of an animation does not cover too, and the EXIF orientation turns and mirrors. Other marks of
orientation (XMP, EXIF inside a PNG's text) count as little as they do there.

Pixels are square: browsers ignore a JPEG's JFIF density and a PNG's `pHYs`, which often hold the numbers of a scanner
or a printer, and so does this. They follow EXIF alone, where its resolution in inches and its pixel dimensions
agree on another shape (HTML, "density-corrected natural size"); so does this.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFile, JpegImagePlugin

from neo_lightning.data.facts import MediaError, costs_one_sample
from neo_lightning.data.media.formats import AVIF, JPEG, PNG, Format, format_of, refusal
from neo_lightning.data.media.png import ends_early, lean

SWAPS_SIDES = (5, 6, 7, 8)
"""Orientations that are transposed, then mirrored."""

_ORIENTATION, _DETAILS = 0x0112, 0x8769
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _INCH = 0x011A, 0x011B, 0x0128, 2
_X_PIXELS, _Y_PIXELS = 0xA002, 0xA003
_POINTS_AN_INCH = 72

_FRAMES = (0xC0, 0xC1, 0xC2, 0xC9, 0xCA)
"""Markers of JPEG frames that are decoded: baseline, sequential, progressive, with Huffman or arithmetic codes."""

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa")
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", *_WITH_ALPHA, *_SIXTEEN_BITS)
"""Pillow's names of how pixels are stored, of those with a defined conversion to 8-bit RGB."""


@dataclass(frozen=True, kw_only=True)
class Still:
    """An image whose header has been read."""

    image: ImageFile.ImageFile
    format: Format
    orientation: int
    """EXIF orientation 1-8, not applied yet."""
    width: int
    """As shown, in pixels: turned, and of square pixels."""
    height: int
    stored: tuple[int, int]
    """(height, width) as stored, turned: as shown where the stored pixels are square."""
    key: np.ndarray | None
    """The colour that is transparent, see `png.lean`."""


def open_still(data: bytes) -> Still:
    """Read the header.

    Raises:
        MediaError: empty, no image, a format or a kind of pixels that is not decoded, or a damaged header.
    """
    found = format_of(data)
    if found is None or found.kind != "image" or not found.reader:
        raise MediaError(refusal(data, "image"))
    if found is PNG and data[12:16] == b"CgBI":
        raise MediaError("PNG in Apple's own variant (CgBI) is not decoded: convert it to JPEG or PNG")
    if found is JPEG and (kind := _frame(data)) not in _FRAMES:
        raise MediaError(f"JPEG of a kind that is not decoded (frame 0x{kind:02x}, as of lossless ones): convert it")
    with costs_one_sample(f"{found.name} with a damaged header", MediaError):
        image, key = _open(data, found)
        exif = _exif(image)
        width, height = _square(image.size, exif)
        orientation = exif.get(_ORIENTATION, 1)
    if image.mode not in _MODES and not (found is PNG and image.mode == "I"):
        raise MediaError(f"{found.name} with pixels of kind {image.mode!r} is not decoded: convert it to 8-bit RGB")
    if not (isinstance(orientation, int) and 1 <= orientation <= 8):
        orientation = 1
    stored = image.height, image.width
    if orientation in SWAPS_SIDES:
        width, height, stored = height, width, stored[::-1]
    return Still(image=image, format=found, orientation=orientation, width=width, height=height, stored=stored, key=key)


def read_pixels(still: Still, data: bytes, part: int = 1) -> np.ndarray:
    """[h, w, 3] uint8, turned, of the stored size or, of a JPEG, of this part of it (1/2, 1/4 or 1/8, rounded up).

    Raises:
        MediaError: fewer rows than the header says.
        Exception: nearly anything, where the data are damaged.
    """
    image = still.image
    if part > 1:
        image.draft(None, (image.width // part, image.height // part))
    covered = image.tile[0][1] if still.format.reader == "GIF" else None
    image.load()
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if still.format is PNG and last_row.getbbox() is None and ends_early(data):
        raise MediaError("damaged image: fewer rows than the header says")
    pixels = _rgb(image)
    if still.key is not None:
        stored = np.asarray(image)
        pixels[(stored == still.key).all(-1) if stored.ndim == 3 else stored == still.key[0]] = 255
    if covered is not None:
        left, top, right, bottom = covered
        for outside in (pixels[:top], pixels[bottom:], pixels[:, :left], pixels[:, right:]):
            outside[:] = 255
    return np.ascontiguousarray(turn(pixels, still.orientation))


def turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[h, w, 3] as stored -> as shown, by the EXIF orientation."""
    if orientation in SWAPS_SIDES:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _frame(data: bytes) -> int:
    """The marker of a JPEG's frame, which says how it is coded; 0xC0 where none is found (Pillow tells the damage)."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return marker
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # a fill byte, or a marker alone
            at += 1 if marker == 0xFF else 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return 0xC0


def _open(data: bytes, found: Format) -> tuple[ImageFile.ImageFile, np.ndarray | None]:
    key = None
    if found is PNG:
        data, key = lean(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning; the cap of `image_facts` decides
            if found.reader == "JPEG":  # the class itself: Pillow's opener looks for further pictures behind the first
                return JpegImagePlugin.JpegImageFile(io.BytesIO(data)), None
            if found is AVIF:
                _one_thread()
            return Image.open(io.BytesIO(data), formats=(found.reader,)), key
    except Image.DecompressionBombError as error:
        raise MediaError(f"too many pixels: {error}") from error
    except Image.UnidentifiedImageError as error:
        raise MediaError(f"{found.name} with a damaged header") from error


def _one_thread() -> None:
    try:
        from PIL import AvifImagePlugin
    except ImportError:
        supported = False
    else:
        supported = AvifImagePlugin.SUPPORTED
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # one worker, one core
    if not supported:
        raise MediaError("AVIF needs a Pillow with AVIF (11.3 or newer): install one, or convert it to JPEG or PNG")


def _exif(image: Image.Image) -> Image.Exif:
    """EXIF alone; broken or absent EXIF is empty. Of a TIFF Pillow applies the orientation itself."""
    exif = Image.Exif()
    if image.format != "TIFF":
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damage, which costs no more than what it says
                exif.load(image.info.get("exif", b""))
                exif.get(_ORIENTATION)
        except Exception:  # Pillow's parser raises many kinds on hostile EXIF; the picture itself is fine
            return Image.Exif()
    return exif


def _square(size: tuple[int, int], exif: Image.Exif) -> tuple[int, int]:
    """(width, height) as stored -> of square pixels, never fewer than are stored."""
    width, height = size
    try:
        across, down = float(exif[_X_RESOLUTION]), float(exif[_Y_RESOLUTION])
        details = exif.get_ifd(_DETAILS)
        said = details[_X_PIXELS], details[_Y_PIXELS]
        meant = width * _POINTS_AN_INCH / across, height * _POINTS_AN_INCH / down
        if across == down or exif[_UNIT] != _INCH or said != (round(meant[0]), round(meant[1])):
            return size
        shape = down / across  # of a pixel, width to height
        return (round(width * shape), height) if shape > 1 else (width, round(height / shape))
    except Exception:  # one that is absent, or anything that hostile EXIF may hold: no statement
        return size


def _rgb(image: Image.Image) -> np.ndarray:
    """[h, w, 3] uint8 that may be written to."""
    if image.mode.startswith("I"):
        levels = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        image = Image.fromarray(levels.astype(np.uint8))
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))
