"""Encoded image -> RGB pixels at a size inside a budget -> uint8 patches.

The size in tokens must be known before anything is decoded, so `image_facts` reads the header only and `decode_image`
fails when the pixels turn out otherwise. Formats are decided by content (`formats.py`), and what is shown of them by
`still.py`. Defined conversions: alpha is composited on white, grey is repeated, 16 bits are scaled, CMYK goes through
Pillow's naive conversion, an EXIF orientation is applied, an animation gives its first frame, colour profiles are
ignored.

Pixels stay uint8 and interleaved (a [3, h, w] view of [h, w, 3] memory) until they are cut into patches: the vectorised
resize wants them so. It equals Pillow's antialiased bicubic to 70 dB. A JPEG that is shown at half its size or less is
decoded at a half, a quarter or an eighth, never below the size shown. That drops the highest frequencies by another
filter: 36 to 49 dB on photographs, 30 dB where fine textures are shown at just half their size. torchvision decodes
plain JPEG and WebP; Pillow does the rest, PNG included, because torchvision's PNG decoder (0.29) takes the process
down where libpng reports damaged data.
"""

from __future__ import annotations

import functools
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from neo_lightning.data.facts import MediaError, MediaFacts, costs_one_sample
from neo_lightning.data.media.formats import JPEG, WEBP
from neo_lightning.data.media.still import open_still, read_pixels
from neo_lightning.types import PATCH, PIXELS_PER_TOKEN_SIDE, PixelBudget

MAX_SOURCE_PIXELS = 100_000_000
"""An image that decodes to more is refused by its header: a few kilobytes can stand for gigabytes."""

MAX_SCANNED_PIXELS = 2_000_000_000
"""Pixels times scans of a progressive JPEG: each scan passes over all of them, and a few bytes can make one."""

MAX_ASPECT = 200
BLANK = 128
"""Value of every channel where an image is missing."""

_RGB = 3
"""torchvision's `ImageReadMode.RGB`."""
_START_OF_SCAN = b"\xff\xda"


def smart_resize(height: int, width: int, budget: PixelBudget, f: int = PIXELS_PER_TOKEN_SIDE) -> tuple[int, int]:
    """Size (height, width) in pixels: multiples of a visual token's side `f`, area inside the budget.

    The aspect is kept as nearly as that allows.

    The rule of Qwen2-VL's and NEO's image processors with factor 32. An area may leave the budget
    where a side is already the smallest possible.

    Raises:
        MediaError: one side is more than 200 times the other.
    """
    if max(height, width) > MAX_ASPECT * min(height, width):
        raise MediaError(f"aspect ratio of {width}x{height} pixels is over {MAX_ASPECT}")
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
        MediaError: empty, a format that is not decoded, too many pixels or scans, or a damaged header.
    """
    still = open_still(data)
    width, height = still.width, still.height
    if width < 1 or height < 1:
        raise MediaError(f"size {width}x{height}")
    if width * height > MAX_SOURCE_PIXELS:
        raise MediaError(f"{width}x{height} pixels are more than the cap of {MAX_SOURCE_PIXELS}")
    if still.format is JPEG and (scans := data.count(_START_OF_SCAN)) * width * height > MAX_SCANNED_PIXELS:
        raise MediaError(f"{scans} scans of {width}x{height} pixels are more than the cap of {MAX_SCANNED_PIXELS}")
    return MediaFacts(
        kind="image",
        width=width,
        height=height,
        format=still.format.reader,
        orientation=still.orientation,
        plain=still.format in (JPEG, WEBP)
        and still.image.mode in ("RGB", "L")
        and still.orientation == 1
        and still.stored == (height, width)
        and not getattr(still.image, "is_animated", False),
    )


def decode_image(data: bytes, facts: MediaFacts, size: tuple[int, int] | None = None) -> Tensor:
    """RGB pixels [3, height, width] uint8, resized to `size` (height, width) where given.

    Raises:
        MediaError: the data are damaged, or are not the size that the facts say.
    """
    with costs_one_sample("damaged image", MediaError):
        if facts.plain and (size is None or facts.format != "JPEG" or _part((facts.height, facts.width), size) == 1):
            pixels = _decode_plain(data)
            height, width = facts.height, facts.width
        else:
            still = open_still(data)
            if (still.width, still.height) != (facts.width, facts.height):  # before decoding: the caps held for those
                found = f"{still.width}x{still.height}"
                raise MediaError(f"the header says {found} pixels, expected were {facts.width}x{facts.height}")
            part = _part(still.stored, size) if size and still.format is JPEG else 1
            pixels = torch.from_numpy(read_pixels(still, data, part)).permute(2, 0, 1)
            height, width = (-(-side // part) for side in still.stored)
    if tuple(pixels.shape) != (3, height, width):
        raise MediaError(f"decodes to {pixels.shape[2]}x{pixels.shape[1]} pixels, expected were {width}x{height}")
    return fit(pixels, size or (facts.height, facts.width))


def fit(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [3, h, w] uint8 to `size` (height, width) by antialiased bicubic interpolation, where it differs."""
    if tuple(pixels.shape[1:]) == size:
        return pixels
    # a batch whose strides torch takes for interleaved; those of pixels[None] it does not, and it would copy
    batch = pixels.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(batch, size, mode="bicubic", antialias=True)[0]


def patchify(pixels: Tensor, side: int = PATCH) -> Tensor:
    """[3, H, W] uint8 with sides that are multiples of 32 -> [H/16 * W/16, 768] uint8, flattened (c, 16, 16).

    So with patches of a `side` of 16 pixels; the sides are multiples of two patches.
    """
    _, height, width = pixels.shape
    rows, columns = height // side, width // side
    # a row of a patch is copied as one item of 16 bytes, which is several times quicker than byte by byte
    items = np.ascontiguousarray(pixels.numpy()).view(f"V{side}").reshape(3, rows, side, columns)
    grid = np.ascontiguousarray(items.transpose(1, 3, 0, 2))
    return torch.from_numpy(grid.view(np.uint8).reshape(rows * columns, 3 * side * side))


def unpatchify(patches: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `patchify` for one unit of rows x columns patches: [P, 768] uint8 -> [3, H, W] uint8."""
    side = math.isqrt(patches.shape[1] // 3)
    grid = patches.cpu().view(rows, columns, 3, side, side)
    return grid.permute(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side)


def _part(stored: tuple[int, int], size: tuple[int, int]) -> int:
    """Which part of its sides (height, width) a JPEG is decoded at to be shown at `size`: 1/8, 1/4, 1/2 or 1/1.

    A half may be shown as it is; smaller parts, whose filter is worse, only where they are resized by a half or more.
    """
    times = min(stored[0] // size[0], stored[1] // size[1])
    return next((part for part, least in ((8, 16), (4, 8), (2, 2)) if times >= least), 1)


def _decode_plain(data: bytes) -> Tensor:
    _bring_decoder()
    # a bytearray, because torch warns of memory that it must not write to
    return torch.ops.image.decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), _RGB, False)


@functools.cache
def _bring_decoder() -> None:
    """torchvision's operators for pictures alone: the whole package takes seconds to import, in every worker."""
    package = find_spec("torchvision")
    places = package.submodule_search_locations if package is not None else None
    libraries = [file for place in places or () for file in Path(place).glob("image*.so")]
    if len(libraries) == 1:
        torch.ops.load_library(str(libraries[0]))
    if len(libraries) != 1 or not hasattr(torch.ops.image, "decode_image"):
        import torchvision.io  # noqa: F401
