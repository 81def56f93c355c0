"""Encoded image -> RGB pixels at a size inside a budget -> uint8 patches.

The size in tokens must be known before anything is decoded, so `image_facts` reads the header only and `decode_image`
fails when the pixels turn out otherwise. Formats are decided by content. Defined conversions: alpha is composited on
white, grey is repeated, 16 bits are scaled, CMYK goes through Pillow's naive conversion, an EXIF orientation is
applied, an animation gives its first frame, colour profiles are ignored.

Pixels stay uint8 and interleaved (a [3, h, w] view of [h, w, 3] memory) until they are cut into patches: the vectorised
resize wants them so. It equals Pillow's antialiased bicubic to 70 dB. A JPEG that is shown at half its size or less is
decoded at a half, a quarter or an eighth, never below the size shown. That drops the highest frequencies by another
filter: 36 to 49 dB on photographs, 30 dB where fine textures are shown at just half their size. torchvision decodes
plain JPEG and WebP; Pillow does the rest, PNG included, because torchvision's PNG decoder (0.29) takes the process
down where libpng reports damaged data.
"""

from __future__ import annotations

import io
import math
import warnings
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from neo_lightning.data.facts import MediaError, MediaFacts
from neo_lightning.types import PATCH, PIXELS_PER_TOKEN_SIDE, PixelBudget

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What is decoded; Pillow knows more, among them formats that run other programs."""

MAX_SOURCE_PIXELS = 100_000_000
"""An image that decodes to more is refused by its header: a few kilobytes can stand for gigabytes."""

MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels times scans of a progressive JPEG: each scan passes over all of them, and a few bytes can make one."""

MAX_ASPECT = 200
BLANK = 128
"""Value of every channel where an image is missing."""

_ORIENTATION_TAG = 274
_SWAPS_SIDES = (5, 6, 7, 8)
_RGB = 3
"""torchvision's `ImageReadMode.RGB`."""
_START_OF_SCAN = b"\xff\xda"


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
        MediaError: empty, unknown format, too many pixels or scans, or a damaged header.
    """
    image = _open(data)
    width, height = image.size
    if width * height > MAX_SOURCE_PIXELS:
        raise MediaError(f"{width}x{height} pixels are more than the cap of {MAX_SOURCE_PIXELS}")
    if width < 1 or height < 1:
        raise MediaError(f"size {width}x{height}")
    if image.format == "JPEG" and (scans := data.count(_START_OF_SCAN)) * width * height > MAX_SCANNED_PIXELS:
        raise MediaError(f"{scans} scans of {width}x{height} pixels are more than the cap of {MAX_SCANNED_PIXELS}")
    orientation = _orientation(image)
    plain = image.format in ("JPEG", "WEBP") and image.mode in ("RGB", "L") and orientation == 1
    if orientation in _SWAPS_SIDES:
        width, height = height, width
    return MediaFacts(
        kind="image",
        width=width,
        height=height,
        format=str(image.format),
        orientation=orientation,
        plain=plain and not getattr(image, "is_animated", False),
    )


def decode_image(data: bytes, facts: MediaFacts, size: tuple[int, int] | None = None) -> Tensor:
    """RGB pixels [3, height, width] uint8, resized to `size` (height, width) where given.

    Raises:
        MediaError: the data are damaged, or are not the size that the facts say.
    """
    part = _part(facts, size) if size and data.startswith(b"\xff\xd8") else 1
    try:
        pixels = _decode_plain(data) if facts.plain and part == 1 else _decode_any(data, facts, part)
    except MediaError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data; all of it means this image is bad
        raise MediaError(f"damaged image: {str(error).splitlines()[0][:160] if str(error) else 'no data'}") from error
    height, width = -(-facts.height // part), -(-facts.width // part)
    if tuple(pixels.shape) != (3, height, width):
        raise MediaError(f"decodes to {pixels.shape[2]}x{pixels.shape[1]} pixels, expected were {width}x{height}")
    return pixels if size is None else fit(pixels, size)


def fit(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [3, h, w] uint8 to `size` (height, width) by antialiased bicubic interpolation, where it differs."""
    if tuple(pixels.shape[1:]) == size:
        return pixels
    # a batch whose strides torch takes for interleaved; those of pixels[None] it does not, and it would copy
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode="bicubic", antialias=True)[0]


def patchify(pixels: Tensor) -> Tensor:
    """[3, H, W] uint8 with sides that are multiples of 32 -> [H/16 * W/16, 768] uint8, flattened (c, 16, 16)."""
    _, height, width = pixels.shape
    rows, columns = height // PATCH, width // PATCH
    # a row of a patch is copied as one item of 16 bytes, which is several times quicker than byte by byte
    items = np.ascontiguousarray(pixels.numpy()).view(f"V{PATCH}").reshape(3, rows, PATCH, columns)
    grid = np.ascontiguousarray(items.transpose(1, 3, 0, 2))
    return torch.from_numpy(grid.view(np.uint8).reshape(rows * columns, 3 * PATCH * PATCH))


def unpatchify(patches: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `patchify` for one unit of rows x columns patches: [P, 768] uint8 -> [3, H, W] uint8."""
    grid = patches.cpu().view(rows, columns, 3, PATCH, PATCH)
    return grid.permute(2, 0, 3, 1, 4).reshape(3, rows * PATCH, columns * PATCH)


def _part(facts: MediaFacts, size: tuple[int, int]) -> int:
    """Which part of its sides a JPEG is decoded at to be shown at `size`: 1/8, 1/4, 1/2 or 1/1.

    A half may be shown as it is; smaller parts, whose filter is worse, only where they are resized by a half or more.
    """
    times = min(facts.height // size[0], facts.width // size[1])
    return next((part for part, least in ((8, 16), (4, 8), (2, 2)) if times >= least), 1)


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
    import torchvision.io  # noqa: F401  two seconds, which only a process that decodes should pay; it brings the operator

    # a bytearray, because torch warns of memory that it must not write to
    return torch.ops.image.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False)


def _decode_any(data: bytes, facts: MediaFacts, part: int) -> Tensor:
    image = _open(data)
    orientation = _orientation(image)
    shown = (facts.height, facts.width) if orientation in _SWAPS_SIDES else (facts.width, facts.height)
    if image.size != shown:  # before decoding: the index's cap on pixels held for what the facts say
        raise MediaError(f"the header says {image.size[0]}x{image.size[1]} pixels, expected were {shown[0]}x{shown[1]}")
    if part > 1:
        image.draft(None, (image.width // part, image.height // part))
    image.load()
    last_row = image.crop((0, image.height - 1, image.width, image.height))
    if image.format == "PNG" and last_row.getbbox() is None and _ends_early(data):
        raise MediaError("damaged image: fewer rows than the header says")
    if image.mode.startswith("I") or image.mode == "F":
        levels = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        image = Image.fromarray(levels.astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
    if image.mode != "RGB":
        image = image.convert("RGB")
    return torch.from_numpy(np.ascontiguousarray(_turn(np.array(image), orientation))).permute(2, 0, 1)


def _ends_early(data: bytes) -> bool:
    """Whether a PNG holds fewer rows than its header says, as Pillow does not: it leaves them 0."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits = data[24] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[data[25]]  # of a pixel
    missing = height * (1 + (width * bits + 7) // 8)  # bytes, each row with its filter; an interlaced one has more
    inflate, at = zlib.decompressobj(), 8
    while at < len(data) and missing > 0:
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        rest = data[at + 8 : at + 8 + length] if kind == b"IDAT" else b""
        while rest and missing > 0:
            missing -= len(inflate.decompress(rest, 1 << 20))
            rest = inflate.unconsumed_tail
        at += 12 + length
    return missing > 0


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """[h, w, 3] as stored -> as shown, by the EXIF orientation: 5..8 are transposed, then mirrored."""
    if orientation in _SWAPS_SIDES:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
