"""Parquet with media in it, as Hugging Face data sets lie on disk -> rows.

A task is a row group; the process that gets it streams it, so memory is that of one page of each column however large
the group is (pyarrow writes pages of up to 1024 rows). Rows of a damaged row group are left out one by one; a file that
is damaged elsewhere is refused at the start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neo_lightning.data.facts import plain_reason
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.task import Job, Listing, Row, Task, digest_of_files, find_files, shown

_ROWS_AT_ONCE = 8


def listing(inputs: list[Path]) -> Listing:
    """See `task.Format`. The total is in rows."""
    files = _files(inputs)
    digest = digest_of_files(files).digest
    return Listing(total=sum(_open(file).metadata.num_rows for file in files), digest=digest)


def split(inputs: list[Path]) -> Iterator[Task]:
    """See `task.Format`."""
    first = 0
    for file in _files(inputs):
        metadata, start = _open(file).metadata, 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            content = (file, group, start)
            place = {"file": shown(file.name), "container": "Parquet"}
            yield Task(first=first, count=count, content=content, progress=first + count, **place)
            first, start = first + count, start + count


def rows(task: Task, job: Job) -> Iterator[Row]:
    """See `task.Format`."""
    file, group, start = task.content
    done = 0
    try:
        opened = _open(file)
        for batch in opened.iter_batches(_ROWS_AT_ONCE, row_groups=[group], use_threads=False):
            for item in _items(batch):
                yield f"{shown(file.name)}, row {start + done}", item
                done += 1
        reason = RecordError(f"row group {group} holds fewer rows than it says")
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = RecordError(f"row group {group} is damaged: {error}")
    for row in range(done, task.count):
        yield f"{shown(file.name)}, row {start + row}", reason


def _items(batch: pa.RecordBatch) -> list[dict[str, Any] | RecordError]:
    """The rows as objects; a value that Python cannot hold costs its row alone."""
    try:
        return batch.to_pylist()
    except (pa.ArrowException, ValueError, OverflowError):
        return [_item(batch.slice(row, 1)) for row in range(batch.num_rows)]


def _item(row: pa.RecordBatch) -> dict[str, Any] | RecordError:
    item = {}
    for name, column in zip(row.schema.names, row.columns, strict=True):
        try:
            item[name] = column.cast(pa.string())[0].as_py() if pa.types.is_temporal(column.type) else column[0].as_py()
        except (pa.ArrowException, ValueError, OverflowError) as error:
            return RecordError(f"column `{name}` cannot be read: {plain_reason(error)}")
    return item


def _files(inputs: list[Path]) -> list[Path]:
    return find_files(inputs, ("*.parquet",))


def _open(file: Path) -> pq.ParquetFile:
    try:
        opened = pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise RecordError(f"{file}: {error}") from error
    names = opened.schema_arrow.names
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RecordError(f"{file}: two columns are called {twice[0]!r}, of which one would be lost; rename one")
    return opened
