"""Encoded image -> RGB pixels at a size inside a budget -> uint8 patches.

The size in tokens must be known before anything is decoded, so `image_facts` reads the header only and `decode_image`
fails when the pixels turn out otherwise. Formats are decided by content. Defined conversions: alpha is composited on
white, grey is repeated, 16 bits are scaled, CMYK goes through Pillow's naive conversion, an EXIF orientation is
applied, an animation gives its first frame. torchvision decodes plain JPEG and WebP; Pillow does the rest, PNG
included, because torchvision's PNG decoder (0.29) takes the process down where libpng reports damaged data.
"""

from __future__ import annotations

import io
import math
import warnings

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as torchvision_decode
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import resize

from neo_lightning.data.facts import MediaError, MediaFacts
from neo_lightning.types import PATCH, PIXELS_PER_TOKEN_SIDE, PixelBudget

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded; Pillow knows more, among them formats that run other programs."""

MAX_SOURCE_PIXELS = 100_000_000
"""An image that decodes to more is refused by its header: a few kilobytes can stand for gigabytes."""

MAX_ASPECT = 200
BLANK = 128
"""Value of every channel where an image is missing."""

_ORIENTATION_TAG = 274
_SWAPS_SIDES = (5, 6, 7, 8)


def smart_resize(height: int, width: int, budget: PixelBudget) -> tuple[int, int]:
    """Size (height, width) in pixels: multiples of 32, area inside the budget, aspect kept as nearly as that allows.

    The rule of Qwen2-VL's and NEO's image processors with factor 32. An area may leave the budget
    where a side is already the smallest possible.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"aspect ratio of {width}x{height} pixels is over {MAX_ASPECT}")
    f = PIXELS_PER_TOKEN_SIDE
    rows, columns = max(1, round(height / f)), max(1, round(width / f))
    if rows * columns * f * f > budget.max_pixels:
        beta = math.sqrt(height * width / budget.max_pixels)
        rows, columns = max(1, math.floor(height / beta / f)), max(1, math.floor(width / beta / f))
    elif rows * columns * f * f < budget.min_pixels:
        beta = math.sqrt(budget.min_pixels / (height * width))
        rows, columns = math.ceil(height * beta / f), math.ceil(width * beta / f)
    return rows * f, columns * f


def image_facts(data: bytes) -> MediaFacts:
    """What the header says: size as shown (orientation applied), and whether the fast decoder suffices.

    Raises:
        MediaError: empty, unknown format, too many pixels, or a damaged header.
    """
    image = _open(data)
    width, height = image.size
    if width * height > MAX_SOURCE_PIXELS:
        raise MediaError(f"{width}x{height} pixels are more than the cap of {MAX_SOURCE_PIXELS}")
    if width < 1 or height < 1:
        raise MediaError(f"size {width}x{height}")
    orientation = _orientation(image)
    if orientation in _SWAPS_SIDES:
        width, height = height, width
    animated = getattr(image, "is_animated", False)
    plain = image.format in ("JPEG", "WEBP") and image.mode in ("RGB", "L") and not animated and orientation == 1
    return MediaFacts(kind="image", width=width, height=height, plain=plain)


def decode_image(data: bytes, facts: MediaFacts) -> Tensor:
    """RGB pixels [3, height, width] uint8.

    Raises:
        MediaError: the data are damaged, or are not the size that the facts say.
    """
    try:
        pixels = _decode_plain(data) if facts.plain else _decode_any(data)
    except Exception as error:  # decoders raise nearly anything on damaged data; all of it means this image is bad
        raise MediaError(f"damaged image: {str(error).splitlines()[0][:160] if str(error) else 'no data'}") from error
    if tuple(pixels.shape) != (3, facts.height, facts.width):
        raise MediaError(
            f"decodes to {pixels.shape[2]}x{pixels.shape[1]} pixels, the header said {facts.width}x{facts.height}"
        )
    return pixels


def fit(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [3, h, w] uint8 to `size` (height, width) by antialiased bicubic interpolation, where it differs."""
    if tuple(pixels.shape[1:]) == size:
        return pixels
    return resize(pixels, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)


def patchify(pixels: Tensor) -> Tensor:
    """[3, H, W] uint8 with sides that are multiples of 32 -> [H/16 * W/16, 768] uint8, flattened (c, 16, 16)."""
    _, height, width = pixels.shape
    rows, columns = height // PATCH, width // PATCH
    grid = pixels.reshape(3, rows, PATCH, columns, PATCH).permute(1, 3, 0, 2, 4)
    return grid.reshape(rows * columns, 3 * PATCH * PATCH)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise MediaError("zero bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's bomb warning; the cap of image_facts decides
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise MediaError(f"too many pixels: {error}") from error
    except Exception as error:  # see decode_image
        raise MediaError(f"not an image in one of the formats {', '.join(FORMATS)}, or a damaged header") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; broken or absent EXIF counts as 1."""
    try:
        # the base class's reader: that of PNG decodes all pixels to look for EXIF behind them
        value = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # Pillow's parser raises many kinds on hostile EXIF; the picture itself is fine
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _decode_plain(data: bytes) -> Tensor:
    # a bytearray, because torch warns of memory that it must not write to
    return torchvision_decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)


def _decode_any(data: bytes) -> Tensor:
    image = _open(data)
    orientation = _orientation(image)
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        levels = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        image = Image.fromarray(levels.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        shown = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", shown.size, (255, 255, 255, 255)), shown)
    image = image.convert("RGB")
    if orientation != 1:
        image.getexif()[_ORIENTATION_TAG] = orientation
        image = ImageOps.exif_transpose(image)
    return torch.from_numpy(np.array(image, dtype=np.uint8)).permute(2, 0, 1).contiguous()
