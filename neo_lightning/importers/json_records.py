"""Files of records -> records with their line numbers, in constant memory.

    JSON Lines                          a broken line is only that line
    a JSON array                        [{...}, {...}]
    an array below a key                {"version": 1, "data": [{...}, {...}]}
    JSON objects, one after the other   over many lines; one alone as well
    CSV, TSV, plain text                by the file's extension; a text's lines are documents

Each may be compressed with gzip. An array that is broken somewhere is imported up to there and then refused, since
nobody knows where its next element starts.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from neo_lightning.data.files import parse_json
from neo_lightning.importers import tables
from neo_lightning.importers.columns import COLUMNS, TURN_COLUMNS
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.task import Job, Listing, Row, Task, digest_of_files, find_files, shown
from neo_lightning.importers.window import CHUNK, MAX_RECORD, Window

TASK_RECORDS = 64
TASK_CHARACTERS = 1 << 20
_NAMES = ("*.json", "*.jsonl", "*.ndjson", "*.csv", "*.tsv")
PATTERNS = (*_NAMES, *(f"{name}.gz" for name in _NAMES))
_OF_A_TURN = {key for keys in TURN_COLUMNS.values() for key in keys} | {"text"}
_OF_A_RECORD = {key for keys in COLUMNS.values() for key in keys} | {"meta", *_OF_A_TURN}
_WRAPPERS = ("data", "records", "samples", "examples", "items", "rows", "train", "instances", "annotations")

Text = str | bytes | RecordError
Records = Iterator[tuple[str, Text]]


def listing(inputs: list[Path]) -> Listing:
    """See `task.Format`."""
    return digest_of_files(_files(inputs))


def split(inputs: list[Path]) -> Iterator[Task]:
    """See `task.Format`."""
    first = before = 0
    for path in _files(inputs):
        file = shown(path.name)
        for batch, read, container in batches(path):
            count = len(batch)
            yield Task(first=first, count=count, content=batch, progress=before + read, file=file, container=container)
            first += count
        before += path.stat().st_size


def rows(task: Task, job: Job) -> Iterator[Row]:
    """See `task.Format`."""
    for where, text in task.content:
        yield where, parse(text)


def batches(path: Path) -> Iterator[tuple[list[tuple[str, Text]], int, str]]:
    """Some (where, text of a record), the bytes of the file that have been read so far, and the container."""
    batch: list[tuple[str, Text]] = []
    size = 0
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            file = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if compressed else raw
            container, records = _records(file, path)
            for where, text in records:
                batch.append((f"{shown(path.name)}{where}", text))
                size += 0 if isinstance(text, RecordError) else len(text)
                if len(batch) == TASK_RECORDS or size >= TASK_CHARACTERS:
                    yield batch, raw.tell(), container
                    batch, size = [], 0
    except (OSError, UnicodeDecodeError, csv.Error, RecursionError, EOFError, zlib.error) as error:
        reached = f"; the last that could be read is {batch[-1][0]}" if batch else ""
        raise RecordError(f"{path}: {getattr(error, 'strerror', None) or error}{reached}") from error
    if batch:
        yield batch, path.stat().st_size, container


def parse(text: Text) -> dict[str, Any] | RecordError:
    """A record's text as an object."""
    if isinstance(text, RecordError):
        return text
    try:
        tree = parse_json(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except (ValueError, RecursionError) as error:
        return RecordError(f"not JSON in UTF-8: {error}")
    return tree if isinstance(tree, dict) else RecordError(f"expected a JSON object, got {type(tree).__name__}")


def _files(inputs: list[Path]) -> list[Path]:
    return find_files(inputs, PATTERNS)


def _records(file: IO[bytes], path: Path) -> tuple[str, Records]:
    """The name of the container, and its records."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in tables.SUFFIXES:
        return tables.records(file, suffix)
    head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    file.seek(0)
    if head == b"[":
        return "JSON array", _array(file, path)
    if head != b"{" or _is_lines(file):
        file.seek(0)
        return "JSON Lines", _lines(file)
    file.seek(0)
    key = _wrapping_key(Window(file))
    file.seek(0)
    if key:
        return f"JSON array below `{key}`", _wrapped(file, path, key)
    line = _next_line(file)
    alone = len(line) < MAX_RECORD and b"\r" not in line.strip() and not _next_line(file)  # a CR alone is a line's end
    file.seek(0)
    return ("JSON Lines", _lines(file)) if alone else ("JSON objects", _objects(file, path))


def _is_lines(file: IO[bytes]) -> bool:
    """Whether each line is an object of its own: the first is and there is a second, or the second starts one."""
    first = _next_line(file)
    second = _next_line(file) if first.endswith(b"\n") else b""
    first = first.rstrip().removesuffix(b",")
    if second.startswith(b"{"):
        return True
    return bool(second) and isinstance(parse(first), dict)


def _next_line(file: IO[bytes]) -> bytes:
    """The next line that is not empty."""
    while (line := file.readline(MAX_RECORD)) and not line.removeprefix(b"\xef\xbb\xbf").strip():
        pass
    return line


def _lines(file: IO[bytes]) -> Records:
    number = 0
    while line := file.readline(MAX_RECORD):
        number += 1
        if len(line) == MAX_RECORD and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = file.readline(CHUNK)
            yield f", line {number}", RecordError(f"a record of more than {MAX_RECORD >> 20} MiB")
        elif line.removeprefix(b"\xef\xbb\xbf").strip():
            yield f", line {number}", line.rstrip().removesuffix(b",")  # lines cut out of an array


def _wrapping_key(window: Window) -> str:
    """The key of the file's only object that holds its records; empty where the object is a record itself."""
    try:
        for key in window.object():
            if window.peek() == "[" and key not in _OF_A_RECORD:
                window.take("[")
                if window.peek() == "{" and _is_record(json.loads(window.value()), key):
                    return key
                return ""
            window.value()
    except (ValueError, RecursionError):
        pass  # said by whoever reads it
    return ""


def _is_record(item: dict[str, Any], key: str) -> bool:
    """Whether an element of a list is a record, rather than a turn of a conversation under a key of somebody's own."""
    return key.lower() in _WRAPPERS or any(name in _OF_A_RECORD - _OF_A_TURN for name in item)


def _wrapped(file: IO[bytes], path: Path, wanted: str) -> Records:
    window = Window(file)
    for key in window.object():
        if key == wanted:
            yield from _elements(window, path, f".{key}")
        elif window.peek() == "[" and key not in _OF_A_RECORD and isinstance(found := json.loads(window.value()), list):
            if any(isinstance(one, dict) for one in found):
                raise RecordError(f"{path}: both `{wanted}` and `{key}` hold records; save them as a file each")
        elif window.peek() not in ("[", ""):
            window.value()


def _objects(file: IO[bytes], path: Path) -> Records:
    """Objects that follow each other, with or without a comma between them."""
    window, number = Window(file), 0
    try:
        while window.peek():
            place = f"[{number}], line {window.line}"
            yield place, window.value(last=True)
            number += 1
            if window.peek() == ",":
                window.take(",")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        where = f"{path}[{number}], line {window.line}"
        raise RecordError(
            f"{where}: {error}; objects over many lines cannot be read past this, JSON Lines could"
        ) from error


def _array(file: IO[bytes], path: Path) -> Records:
    """Elements of a file that is one JSON array."""
    window = Window(file)
    yield from _elements(window, path, "")
    if window.peek():
        raise RecordError(f"{path}, line {window.line}: more text behind the end of the array")


def _elements(window: Window, path: Path, key: str) -> Records:
    """Elements of an array. `[3]` counts from 0, as in Python and jq; the line is that of the element's start."""
    number = 0
    try:
        window.take("[")
        while number or window.peek() != "]":
            window.peek()
            place = f"{key}[{number}], line {window.line}"
            yield place, window.value()
            number += 1
            if window.peek() == "]":
                break
            window.take(",")
            if window.peek() == "]":
                break
        window.take("]")
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        where = f"{path}{key}[{number}], line {window.line}"
        raise RecordError(f"{where}: {error}; an array cannot be read past this, JSON Lines could") from error
