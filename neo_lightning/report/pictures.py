"""Patches as the model saw them -> pictures for people.

The report shows what went into the model (after resizing, and after frames were chosen), not the file in the shard: a
mistake in the preprocessing is then visible at a glance.
"""

from __future__ import annotations

import io

from PIL import Image, ImageDraw
from torch import Tensor

from neo_lightning.data.media.image import unpatchify as one_unit

GAP = 6


def unpatchify(patches: Tensor, grids: Tensor) -> list[Image.Image]:
    """Put units together again.

    Args:
        patches: [P, 768] uint8, (channel, row, column) flattened, row-major on each unit's patch grid.
        grids: [I, 2] rows and columns of each unit in visual tokens (2 x 2 patches each), as in `Sequence.grids`.
    """
    images, place = [], 0
    for rows, columns in (grids * 2).tolist():
        pixels = one_unit(patches[place : place + rows * columns], rows, columns)
        images.append(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))
        place += rows * columns
    if place != patches.shape[0]:
        raise ValueError(f"the grids hold {place} patches, but there are {patches.shape[0]}")
    return images


def side_by_side(images: list[Image.Image], height: int | None = None) -> Image.Image:
    """Images in one row on a transparent ground, at one height (pixels; the tallest image's if None)."""
    height = height or max(image.height for image in images)
    scaled = [
        image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.NEAREST)
        for image in images
    ]
    row = Image.new("RGBA", (sum(image.width for image in scaled) + GAP * (len(scaled) - 1), height))
    left = 0
    for image in scaled:
        row.paste(image.convert("RGBA"), (left, 0))
        left += image.width + GAP
    return row


def png(image: Image.Image) -> bytes:
    """Encode as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def film_strip(frames: list[Image.Image], columns: int = 8) -> Image.Image:
    """Frames in reading order on black film with its holes, `columns` frames a row."""
    width, height = max(frame.width for frame in frames), max(frame.height for frame in frames)
    columns = min(columns, len(frames))
    margin = max(8, height // 8)
    row_height = height + 2 * margin
    rows = -(-len(frames) // columns)
    film = Image.new("RGB", (columns * (width + GAP) + GAP, rows * row_height), (13, 15, 18))
    pen = ImageDraw.Draw(film)
    hole, pitch = max(3, margin // 2), max(8, margin)
    for row in range(rows):
        for edge in (row * row_height + (margin - hole) // 2, (row + 1) * row_height - (margin + hole) // 2):
            for left in range(pitch // 2, film.width - hole, pitch + hole):
                pen.rectangle((left, edge, left + hole, edge + hole - 1), fill=(205, 203, 198))
    for number, frame in enumerate(frames):
        row, column = divmod(number, columns)
        film.paste(frame, (GAP + column * (width + GAP), row * row_height + margin))
    return film
