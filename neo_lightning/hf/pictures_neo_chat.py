"""A picture in any form -> pixels at a wanted size -> patches.

What a picture shows is defined as in training: EXIF orientation applied, transparency on white, the first frame of an
animation, no colour management. Files give exactly the training's pixels, as they are decoded the same way: a JPEG that
is shown at half its size or less is decoded at a half, a quarter or an eighth, others by torchvision or Pillow.
"""

import base64
import io
import math
import os
import warnings
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.io  # noqa: F401  brings the operator image.decode_image
from huggingface_hub import get_session
from PIL import GifImagePlugin, Image, ImageOps, JpegImagePlugin
from torch import Tensor

PATCH = 16
TOKEN = 32
"""Sides in pixels of a patch, and of the square of 2 x 2 patches that one visual token shows."""

PATCH_BYTES = 3 * PATCH * PATCH

MAX_ASPECT = 200
MAX_SOURCE_PIXELS = 100_000_000

_FORMATS = ("PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
_SIXTEEN_BITS = ("I", "I;16", "I;16B", "I;16L", "I;16N")
_MODES = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "RGBA", "LA", "PA", "RGBa", *_SIXTEEN_BITS)
_RGB = 3  # torchvision's ImageReadMode
_ORIENTATION, _DETAILS = 0x0112, 0x8769
_RESOLUTION_X, _RESOLUTION_Y, _UNIT, _PIXELS_X, _PIXELS_Y = 0x011A, 0x011B, 0x0128, 0xA002, 0xA003


def smart_resize(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Size (height, width) in multiples of 32 whose area lies in the budget, its aspect as near as that allows.

    Raises:
        ValueError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise ValueError(f"one side of {width}x{height} pixels is more than {MAX_ASPECT} times the other")
    rows, columns = max(1, round(height / TOKEN)), max(1, round(width / TOKEN))
    area = rows * columns * TOKEN * TOKEN
    if area > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        rows, columns = max(1, math.floor(height / shrink / TOKEN)), max(1, math.floor(width / shrink / TOKEN))
    elif area < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * grow / TOKEN), math.ceil(width * grow / TOKEN)
    return rows * TOKEN, columns * TOKEN


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """[3, h, w] uint8 -> [3, height, width] uint8, antialiased bicubic; as it is where the size is the same."""
    if tuple(pixels.shape[1:]) == (height, width):
        return pixels
    interleaved = pixels.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2)  # torch's vectorised path
    return F.interpolate(interleaved, (height, width), mode="bicubic", antialias=True)[0]


def patchify(pixels: Tensor) -> Tensor:
    """[..., 3, H, W] -> [patches, 768], picture after picture, rows of patches from above, a patch as (c, 16, 16)."""
    rows, columns = pixels.shape[-2] // PATCH, pixels.shape[-1] // PATCH
    grid = pixels.reshape(-1, 3, rows, PATCH, columns, PATCH)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, PATCH_BYTES)


def read_bytes(source: Any, kind: str) -> bytes:
    """The file that a path, address (http, https, file, data), base64 text or bytes stand for.

    Raises:
        ValueError: it stands for none; says which and why.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    text = os.fspath(source)
    address = urlsplit(text) if "://" in text[:16] else None
    try:
        if text.startswith("data:"):
            return base64.b64decode(text.partition(",")[2], validate=True)
        if address is not None and address.scheme in ("http", "https"):
            answer = get_session().get(text)
            answer.raise_for_status()
            return answer.content
        path = unquote(address.path) if address is not None and address.scheme == "file" else os.path.expanduser(text)
        if len(text) > 1024 and not os.path.exists(path):
            return base64.b64decode(text, validate=True)
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise ValueError(f"{kind} {text[:200]!r} cannot be read: {error}") from error
    except Exception as error:  # of the network
        raise ValueError(f"{kind} {text[:200]!r} was not delivered: {error}") from error


class EncodedPicture:
    """A picture in a file, of which the header is read. `height` and `width` are in pixels as shown."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's warning of large ones; the cap below decides
            if data[:3] == b"\xff\xd8\xff":  # the class itself: the opener looks for further pictures in the file
                self._image: Any = JpegImagePlugin.JpegImageFile(io.BytesIO(data))
            else:
                file = _bare_png(data) if data[:4] == b"\x89PNG" else data
                Image.init()  # older versions know no AVIF
                self._image = Image.open(io.BytesIO(file), formats=[name for name in _FORMATS if name in Image.OPEN])
        image = self._image
        if image.mode not in _MODES:
            raise ValueError(f"{image.format} with pixels of kind {image.mode!r}: convert it to 8-bit RGB")
        if image.width * image.height > MAX_SOURCE_PIXELS:
            raise ValueError(f"{image.width}x{image.height} pixels are more than the cap of {MAX_SOURCE_PIXELS}")
        exif = _exif(image)
        orientation = exif.get(_ORIENTATION, 1)
        self._orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
        self.width, self.height = _of_square_pixels(image.size, exif)
        self._stored = image.height, image.width
        if self._orientation >= 5:  # transposed
            self.width, self.height, self._stored = self.height, self.width, self._stored[::-1]
        as_stored = self._orientation == 1 and self._stored == (self.height, self.width)
        self._plain = as_stored and image.mode in ("RGB", "L") and not getattr(image, "is_animated", False)

    def pixels(self, height: int, width: int) -> Tensor:
        """[3, height, width] uint8."""
        image = self._image
        times = min(self._stored[0] // height, self._stored[1] // width)
        part = next((part for part, least in ((8, 16), (4, 8), (2, 2)) if times >= least), 1)
        if self._plain and (image.format == "WEBP" or (image.format == "JPEG" and part == 1)):
            encoded = torch.frombuffer(bytearray(self._data), dtype=torch.uint8)
            return resize(torch.ops.image.decode_image(encoded, _RGB, False), height, width)
        if image.format == "JPEG" and part > 1:
            image.draft(None, (image.width // part, image.height // part))
        shown = image.tile[0][1] if isinstance(image, GifImagePlugin.GifImageFile) else None
        image.load()
        found = _rgb(image, self._data[24] if image.format == "PNG" else None)
        if shown is not None:  # what the first frame of an animation leaves open is white
            left, top, right, bottom = shown
            for open_part in (found[:top], found[bottom:], found[:, :left], found[:, right:]):
                open_part[:] = 255
        if self._orientation >= 5:
            found = found.transpose(1, 0, 2)
        if self._orientation in (2, 3, 6, 7):
            found = found[:, ::-1]
        if self._orientation in (3, 4, 7, 8):
            found = found[::-1]
        return resize(torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1), height, width)


class DecodedPicture:
    """A PIL image, or an array of uint8: [H, W], [H, W, C] or [C, H, W] with C of 1, 3 or 4."""

    def __init__(self, picture: Any) -> None:
        image = picture if isinstance(picture, Image.Image) else _image_of_array(picture)
        image = ImageOps.exif_transpose(image)
        if image.mode == "F":
            raise ValueError("a picture of floating point has no range of its own: make it uint8")
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"):
            image = image.convert("RGB")
        self.height, self.width = image.height, image.width
        self._pixels = torch.from_numpy(_rgb(image, 8)).permute(2, 0, 1)

    def pixels(self, height: int, width: int) -> Tensor:
        """[3, height, width] uint8."""
        return resize(self._pixels, height, width)


def load_picture(source: Any) -> EncodedPicture | DecodedPicture:
    """A picture from a path, address, base64 text, bytes, PIL image, or an array of uint8.

    Raises:
        ValueError: it is none of these, or cannot be read; says why.
    """
    if isinstance(source, Image.Image | np.ndarray | Tensor):
        return DecodedPicture(source)
    if not isinstance(source, str | bytes | bytearray | memoryview | os.PathLike):
        raise ValueError(f"expected a path, address, bytes, PIL image or array, found {type(source).__name__}")
    data = read_bytes(source, "image")
    try:
        return EncodedPicture(data)
    except (OSError, ValueError, SyntaxError) as error:
        name = "the bytes" if isinstance(source, bytes | bytearray | memoryview) else str(source)[:200]
        raise ValueError(f"image {name}: {error}") from error


def _image_of_array(array: Any) -> Image.Image:
    array = array.cpu().numpy() if isinstance(array, Tensor) else array
    if array.dtype != np.uint8:
        raise ValueError(f"an array of pixels must be uint8, found {array.dtype}")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _bare_png(data: bytes) -> bytes:
    """Without texts, profiles and animation, which show nothing here, and of which Pillow refuses long ones."""
    kept, turned, at, kind = [data[:8]], [], 8, b""
    while at + 8 <= len(data) and kind != b"IEND":
        end, kind = at + 12 + int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        if kind == b"eXIf":  # perhaps behind the pixels, where it counts as well
            turned = [data[at:end]]
        elif kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept[:2] + turned + kept[2:])


def _exif(image: Any) -> Image.Exif:
    """EXIF alone, as browsers read it; broken EXIF is none. Of a TIFF Pillow has applied it already."""
    exif = Image.Exif()
    if image.format == "TIFF":
        return exif
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(image.info.get("exif", b""))
            exif.get(_ORIENTATION)
    except Exception:  # Pillow's parser raises many kinds
        return Image.Exif()
    return exif


def _of_square_pixels(size: tuple[int, int], exif: Image.Exif) -> tuple[int, int]:
    """(width, height) as stored -> as shown, where EXIF's resolution and its size in pixels agree on another shape."""
    width, height = size
    try:
        across, down = float(exif[_RESOLUTION_X]), float(exif[_RESOLUTION_Y])
        details = exif.get_ifd(_DETAILS)
        natural = round(width * 72 / across), round(height * 72 / down)
        if across == down or exif[_UNIT] != 2 or (details[_PIXELS_X], details[_PIXELS_Y]) != natural:
            return size
    except Exception:  # absent, or anything that EXIF may hold
        return size
    shape = down / across
    return (round(width * shape), height) if shape > 1 else (width, round(height / shape))


def _rgb(image: Image.Image, bits: int | None) -> np.ndarray:
    """[h, w, 3] uint8 on white; `bits` of a sample of a PNG (or of what could be one)."""
    key = None
    if bits is not None and image.mode in ("1", "L", "I", "I;16", "RGB") and "transparency" in image.info:
        # one colour is transparent; Pillow would compare it before samples are scaled to 8 bits
        key = np.atleast_1d(np.array(image.info["transparency"]))
        key = key >> 8 if bits == 16 and image.mode == "RGB" else key * {2: 85, 4: 17}.get(bits, 1)
    stored = image
    if image.mode in _SIXTEEN_BITS:
        levels = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        image = Image.fromarray(levels.astype(np.uint8))
    if key is None and (image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    found = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    if key is not None:
        samples = np.asarray(stored)
        found[(samples == key).all(-1) if samples.ndim == 3 else samples == key[0]] = 255
    return found
