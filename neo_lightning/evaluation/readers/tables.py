"""VLMEvalKit's TSV, and CSV: one pass for digest and row places, then row by row.

Quoted fields may hold line feeds, as pandas writes them, so rows are found by the parser and not by lines. A row that
has another number of fields than the head, or is not UTF-8, is told and left out.
"""

from __future__ import annotations

import csv
import hashlib
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .media import read_media
from .row import MOST_BYTES, Row, Unread, key_of

csv.field_size_limit(MOST_BYTES)


class TableRows:
    """Rows of a TSV or CSV file whose first line names the columns."""

    def __init__(self, path: Path, media: Path) -> None:
        """
        Args:
            path: the file.
            media: folder that its files' names start at.

        Raises:
            ValueError: no head, or a row that does not end.
        """
        self.path, self.name, self._media = path, path.name, media
        self._delimiter = "," if path.suffix.lower() == ".csv" else "\t"
        self._starts = array("q")
        self._places: dict[str, int] = {}
        hasher = hashlib.sha256()
        lines = _Lines(path, 0, hasher)
        rows = self._parse(lines)
        self.columns = next(rows, [])
        if len(self.columns) < 2 or len(set(self.columns)) < len(self.columns):
            raise ValueError(
                f"{path}: the first line must name at least two columns, each once; found {self.columns[:9]}"
            )
        start = lines.end
        for fields in rows:
            if fields:
                self._places.setdefault(key_of(self._named(fields), len(self._starts)), len(self._starts))
                self._starts.append(start)
            start = lines.end
        self.digest = hasher.hexdigest()

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Row | Unread]:
        for number in range(len(self)):
            yield self._row(number)

    def _row(self, number: int) -> Row | Unread:
        cells = self._cells(number)
        where = f"{self.path}, row {number + 1}"
        named = self._named(cells)
        key = key_of(named, number)
        if len(cells) != len(self.columns):
            return Unread(key=key, where=where, reason=f"{len(cells)} fields where the head names {len(self.columns)}")
        if any(not _is_utf8(cell) for cell in cells):
            return Unread(key=key.encode("ascii", "replace").decode(), where=where, reason="is not UTF-8")
        media = partial(read_media, named, self._media, self.path.stem, self._image_of)
        return Row(key=key, where=where, fields=named, media=media)

    def _image_of(self, key: str) -> Any:
        """The picture of the row with this index; the text itself where there is none: a file's name."""
        place = self._places.get(key)
        return key if place is None else self._named(self._cells(place)).get("image")

    def _cells(self, number: int) -> list[str]:
        return next(self._parse(_Lines(self.path, self._starts[number])))

    def _named(self, cells: list[str]) -> dict[str, Any]:
        return dict(zip(self.columns, cells, strict=False))

    def _parse(self, lines: _Lines) -> Iterator[list[str]]:
        reader = csv.reader(lines, delimiter=self._delimiter)
        try:
            for fields in reader:
                lines.row += 1
                lines.begun = lines.end
                yield fields
        except csv.Error as error:
            raise ValueError(f"{self.path}, row {lines.row}: {error}") from error


class _Lines:
    """A file's lines as text from a byte on; `end` is the byte behind the last one given."""

    def __init__(self, path: Path, start: int, hasher: Any = None) -> None:
        self.path, self.end, self.begun, self.row, self._hasher = path, start, start, 0, hasher
        self._file = path.open("rb")
        self._file.seek(start)

    def __iter__(self) -> Iterator[str]:
        with self._file:
            while line := self._file.readline(MOST_BYTES):
                if self._hasher is not None:
                    self._hasher.update(line)
                text = line.decode("utf-8", "surrogateescape")
                text = text if self.end else text.removeprefix("\ufeff")
                self.end += len(line)
                if self.end - self.begun > MOST_BYTES:
                    raise ValueError(
                        f"{self.path}, row {self.row}: begins at byte {self.begun} and does not end within "
                        f"{MOST_BYTES >> 20} MiB; is there a quote that is never closed?"
                    )
                yield text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
