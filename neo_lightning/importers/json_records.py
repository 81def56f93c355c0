"""JSON arrays, JSON Lines and CSV -> records with their line numbers, in constant memory.

A window slides over the file: it grows while an element is incomplete and forgets what has been read. So memory is that
of the largest record, and an array that is broken somewhere is imported up to there and then refused, since nobody
knows where its next element starts. A broken line is only that line.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from neo_lightning.importers.record import RecordError
from neo_lightning.importers.task import Job, Listing, Row, Task, digest_of_files, find_files, shown

MAX_RECORD = 64 << 20
"""Characters of one record."""
TASK_RECORDS = 64
TASK_CHARACTERS = 1 << 20
_CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_MAY_GO_ON = ("", *".eE+-0123456789")
"""Behind a number that the window has cut, as in `12` of `12.5`; nothing at all is the window's end."""

Text = str | bytes | RecordError


def listing(inputs: list[Path]) -> Listing:
    """See `task.Format`."""
    return digest_of_files(_files(inputs))


def split(inputs: list[Path]) -> Iterator[Task]:
    """See `task.Format`."""
    first = before = 0
    for path in _files(inputs):
        for batch, read in batches(path):
            yield Task(first=first, count=len(batch), content=batch, progress=before + read)
            first += len(batch)
        before += path.stat().st_size


def rows(task: Task, job: Job) -> Iterator[Row]:
    """See `task.Format`."""
    for where, text in task.content:
        yield where, parse(text)


def batches(path: Path) -> Iterator[tuple[list[tuple[str, Text]], int]]:
    """Some (where, text of a record), and the bytes of the file that have been read so far."""
    batch: list[tuple[str, Text]] = []
    size = 0
    try:
        with path.open("rb") as file:
            for where, text in _records(file, path):
                batch.append((f"{shown(path.name)}{where}", text))
                size += 0 if isinstance(text, RecordError) else len(text)
                if len(batch) == TASK_RECORDS or size >= TASK_CHARACTERS:
                    yield batch, file.tell()
                    batch, size = [], 0
    except (OSError, UnicodeDecodeError, csv.Error, RecursionError) as error:
        reached = f"; the last that could be read is {batch[-1][0]}" if batch else ""
        raise RecordError(f"{path}: {getattr(error, 'strerror', None) or error}{reached}") from error
    if batch:
        yield batch, path.stat().st_size


def parse(text: Text) -> dict[str, Any] | RecordError:
    """A record's text as an object."""
    if isinstance(text, RecordError):
        return text
    try:
        tree = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        return RecordError(f"not JSON in UTF-8: {error}")
    return tree if isinstance(tree, dict) else RecordError(f"expected a JSON object, got {type(tree).__name__}")


def _files(inputs: list[Path]) -> list[Path]:
    return find_files(inputs, ("*.json", "*.jsonl"))


def _records(file: IO[bytes], path: Path) -> Iterator[tuple[str, Text]]:
    if path.suffix.lower() == ".csv":
        return _table(file)
    head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    file.seek(0)
    return _array(file, path) if head == b"[" else _lines(file)


def _lines(file: IO[bytes]) -> Iterator[tuple[str, Text]]:
    number = 0
    while line := file.readline(MAX_RECORD):
        number += 1
        if len(line) == MAX_RECORD and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(_CHUNK)
            yield f", line {number}", RecordError(f"a record of more than {MAX_RECORD >> 20} MiB")
        elif line.strip():
            yield f", line {number}", line


def _table(file: IO[bytes]) -> Iterator[tuple[str, Text]]:
    """Rows of CSV as text of JSON; the first line names the columns."""
    lines = iter(lambda: file.readline(MAX_RECORD), b"")
    reader = csv.DictReader((line.decode("utf-8-sig") for line in lines), strict=True)
    for row in reader:
        yield f", line {reader.line_num}", json.dumps(row)


def _array(file: IO[bytes], path: Path) -> Iterator[tuple[str, Text]]:
    """Elements of a JSON array. `[3]` counts from 0, as in Python and jq; the line is that of the element's start."""
    window = _Window(file)
    number = 0
    try:
        window.take("[")
        while number or window.peek() != "]":
            window.peek()
            place = f"[{number}], line {window.line}"
            yield place, window.value()
            number += 1
            if window.peek() == "]":
                break
            window.take(",")
        window.take("]")
        if window.peek():
            raise RecordError("more text behind the end of the array")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        where = f"{path}[{number}], line {window.line}"
        raise RecordError(f"{where}: {error}; an array cannot be read past this, JSON Lines could") from error


class _Window:
    """The part of a text file that is being read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at = "", 0
        self.line = 1
        """Line of the next character."""

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None  # it matches nothing at all as well
            self._pass(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def take(self, expected: str) -> None:
        """Step over a character."""
        if (found := self.peek()) != expected:
            raise RecordError(f"expected {expected!r}, found {found!r}" if found else "the file ends too early")
        self._pass(self._at + 1)

    def value(self) -> str:
        """Text of the JSON value that starts here; the window grows until it is complete."""
        while True:
            error: Exception | None = None
            try:
                end = self._parse(self._text, self._at)[1]
                if self._text[end : end + 1] not in _MAY_GO_ON:
                    text = self._text[self._at : end]
                    self._pass(end)
                    return text
            except ValueError as caught:
                error = caught
            if len(self._text) - self._at > MAX_RECORD:
                raise RecordError(f"broken, or more than {MAX_RECORD >> 20} MiB ({error})")
            if not self._grow():
                raise error or RecordError("the file ends too early")

    def _grow(self) -> bool:
        """Read on, at least doubling what is held, so that long elements are not parsed too often."""
        self._text, self._at = self._text[self._at :], 0
        while data := self._file.read(max(_CHUNK, len(self._text))):
            if more := self._decoder.decode(data):
                self._text += more
                return True
        self._decoder.decode(b"", final=True)
        return False

    def _pass(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end
