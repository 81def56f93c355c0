"""Small real files of benchmarks."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ((200, 20, 20), (20, 20, 200), (20, 160, 20), (230, 210, 30))


def jpeg(number: int, size: tuple[int, int] = (70, 50)) -> bytes:
    """A picture of one colour, another one for each number."""
    file = io.BytesIO()
    Image.new("RGB", size, COLOURS[number % 4]).save(file, "JPEG")
    return file.getvalue()


def base64_jpeg(number: int) -> str:
    return base64.b64encode(jpeg(number)).decode()


def write_tsv(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """As pandas writes it: quotes around line feeds and quotes."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return file


def choices(count: int) -> list[dict[str, Any]]:
    """Rows of a multiple choice set with pictures."""
    return [
        {
            "index": number,
            "question": f'Which colour\nis "number" {number}?',
            "A": "red",
            "B": "blue",
            "answer": "AB"[number % 2],
            "category": f"kind {number % 3}",
            "image": base64_jpeg(number),
        }
        for number in range(count)
    ]
