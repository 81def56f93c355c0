"""CSV, TSV and plain text -> records as text of JSON, with their line numbers."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import IO

from neo_lightning.importers.error import RecordError
from neo_lightning.importers.window import MAX_RECORD

SUFFIXES = (".csv", ".tsv", ".txt")

Rows = Iterator[tuple[str, str | bytes | RecordError]]


def records(file: IO[bytes], suffix: str) -> tuple[str, Rows]:
    """The name of the container, and its records.

    Raises:
        csv.Error: lines end otherwise, or the first does not name columns.
    """
    head = file.readline(MAX_RECORD)
    file.seek(0)
    if b"\r" in head.rstrip(b"\r\n"):
        raise csv.Error("its lines end in a carriage return alone; save it with line feeds")
    if suffix == ".txt":
        return "text, one document a line", _documents(file)
    if suffix == ".tsv":
        return "TSV", _table(file, "\t")
    return "CSV", _table(file, next((mark for mark in ",;\t|" if mark.encode() in head), ","))


def _table(file: IO[bytes], delimiter: str) -> Rows:
    """Rows of a table; its first line names the columns."""
    csv.field_size_limit(MAX_RECORD)
    reader = csv.reader(_decoded(file), delimiter=delimiter, strict=True)
    head = [name.strip() for name in next(reader, [])]
    if len(set(head)) < len(head):
        raise csv.Error(f"the first line names a column twice ({', '.join(head)}); it must name the columns")
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            reason = (
                f"not CSV: {error}; it starts on line {start}, and a quote that is not closed takes in what follows"
            )
            yield f", line {reader.line_num}", RecordError(reason)
            continue
        if row is None:
            return
        where = f", line {reader.line_num}"
        if len(row) > len(head):
            yield where, RecordError(f"{len(row)} fields, the first line names {len(head)}")
        elif row:
            yield where, _json(dict(zip(head, row, strict=False)))


def _documents(file: IO[bytes]) -> Rows:
    for number, line in enumerate(_decoded(file), start=1):
        if line.strip():
            yield f", line {number}", _json({"text": line.rstrip("\r\n")})


def _decoded(file: IO[bytes]) -> Iterator[str]:
    """Lines as text; what is no UTF-8 is told of its record alone, so it is kept until then."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_RECORD), b"")):
        yield line.decode("utf-8-sig" if not number else "utf-8", "surrogateescape")


def _json(row: dict[str, str]) -> str | RecordError:
    try:
        "".join(row.values()).encode()
    except UnicodeEncodeError:
        return RecordError("not UTF-8")
    return json.dumps(row)
