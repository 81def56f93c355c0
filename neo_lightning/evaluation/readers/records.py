"""lmms-eval's and Hugging Face's rows: JSON Lines, and Parquet with pictures inside."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...data.files import parse_json
from .media import read_media
from .row import MOST_BYTES, Row, Unread, file_digest, key_of

_BATCH = 16
"""Rows of a Parquet file that are in memory together."""


class JsonRows:
    """One JSON object a line; empty lines are passed over."""

    def __init__(self, path: Path, media: Path) -> None:
        self.path, self.name, self._media = path, path.name, media
        hasher, self._count = hashlib.sha256(), 0
        with path.open("rb") as file:
            while line := file.readline(1 << 20):
                hasher.update(line)
        self._count = sum(1 for _ in self._lines())
        self.digest = hasher.hexdigest()

    def __len__(self) -> int:
        return self._count

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        """Number in the file, from 1, and bytes of each line; None of one that is longer than a row may be."""
        with self.path.open("rb") as file:
            line_number, cut = 0, False
            while line := file.readline(MOST_BYTES):
                whole = line.endswith(b"\n") or len(line) < MOST_BYTES
                line_number += not cut
                if not whole and not cut:
                    yield line_number, None
                elif not cut and line.strip():
                    yield line_number, line
                cut = not whole

    def __iter__(self) -> Iterator[Row | Unread]:
        for number, (line_number, line) in enumerate(self._lines()):
            where = f"{self.path}, line {line_number}"
            if line is None:
                yield Unread(key=str(number), where=where, reason=f"longer than {MOST_BYTES >> 20} MiB")
                continue
            try:
                tree = parse_json(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield Unread(key=str(number), where=where, reason=f"not JSON: {str(error)[:120]}")
                continue
            if not isinstance(tree, dict):
                yield Unread(key=str(number), where=where, reason=f"expected an object, found {type(tree).__name__}")
                continue
            yield _row(tree, number, where, self._media, self.path.stem)


class ParquetRows:
    """Rows of a Parquet file."""

    def __init__(self, path: Path, media: Path) -> None:
        """
        Raises:
            ValueError: not a Parquet file.
        """
        import pyarrow
        import pyarrow.parquet

        self.path, self.name, self._media = path, path.name, media
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path}: {error}") from error
        self._broken = pyarrow.ArrowException
        self.digest = file_digest(path)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    def __iter__(self) -> Iterator[Row | Unread]:
        number = 0
        try:
            for batch in self._file.iter_batches(batch_size=_BATCH):
                for tree in batch.to_pylist():
                    yield _row(tree, number, f"{self.path}, row {number + 1}", self._media, self.path.stem)
                    number += 1
        except (self._broken, OSError) as error:
            raise ValueError(f"{self.path}, row {number + 1} and those behind it: {error}") from error


def _row(tree: dict[str, Any], number: int, where: str, media: Path, name: str) -> Row:
    return Row(key=key_of(tree, number), where=where, fields=tree, media=partial(read_media, tree, media, name))
