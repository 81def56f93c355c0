"""Files of any kind -> rows: each is looked at, and read by the format that it is in.

A folder with metadata files, or with media and captions and no files of records, is for the format `folder`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from neo_lightning.importers import folder, json_records, parquet
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.task import Format, Job, Listing, Row, Task, digest_of_files, find_files

_READERS: dict[str, Format] = {"parquet": parquet, "records": json_records}
_PATTERNS = (*json_records.PATTERNS, "*.parquet")
_NOT_RECORDS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What tools write beside records in a folder."""
_SHARDS = "shards are named in a manifest as they are; --format webdataset reads those with members of other kinds"
_TELLING = {
    b"PK\x03\x04": "a ZIP archive; unpack it first (of a spreadsheet: save it as CSV)",
    b"BZh": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"SQLite": "a database; save its table as CSV or JSON Lines",
    b"\x89HDF": "an HDF5 file; save it as Parquet",
    b"ARROW1": "an Arrow file; save it as Parquet (`datasets`: to_parquet)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"\xff\xfe": "text in UTF-16 or UTF-32; save it as UTF-8",
    b"\xfe\xff": "text in UTF-16 or UTF-32; save it as UTF-8",
}


def format_of(inputs: list[Path]) -> str:
    """`auto`, or `folder` where one folder holds media with their captions.

    Raises:
        RecordError: a folder of shards.
    """
    if len(inputs) != 1 or not inputs[0].is_dir():
        return "auto"
    found = [path.name.lower() for pattern in _PATTERNS for path in inputs[0].rglob(pattern)]
    records = [name for name in found if name not in folder.METADATA and name not in _NOT_RECORDS]
    if not records and any(inputs[0].rglob("*.tar")):
        raise RecordError(f"{inputs[0]}: {_SHARDS}")
    return "auto" if records else "folder"


def listing(inputs: list[Path]) -> Listing:
    """See `task.Format`. The total is in bytes."""
    files = _files(inputs)
    for file in files:
        if file.is_file():
            _READERS[_kind(file)].listing([file])
    return digest_of_files(files)


def split(inputs: list[Path]) -> Iterator[Task]:
    """See `task.Format`."""
    first = before = 0
    for file in _files(inputs):
        kind, size, count = _kind(file), file.stat().st_size, 0
        total = _READERS[kind].listing([file]).total or 1
        for task in _READERS[kind].split([file]):
            progress = before + size * task.progress // total
            yield replace(task, first=first + task.first, content=(kind, task.content), progress=progress)
            count = task.first + task.count
        first, before = first + count, before + size


def rows(task: Task, job: Job) -> Iterator[Row]:
    """See `task.Format`."""
    kind, content = task.content
    return _READERS[kind].rows(replace(task, content=content), job)


def _files(inputs: list[Path]) -> list[Path]:
    found = find_files(inputs, _PATTERNS)
    return [file for file in found if file in inputs or file.name not in _NOT_RECORDS]


def _kind(file: Path) -> str:
    """
    Raises:
        RecordError: it is a file that holds no records, and what to do with it.
    """
    if file.suffix.lower() == ".tar":
        raise RecordError(f"{file}: {_SHARDS}")
    try:
        with file.open("rb") as opened:
            head = opened.read(8)
    except OSError as error:
        raise RecordError(f"{file}: {error.strerror or error}") from error
    if head[1:2] == b"\0" or head[:1] == b"\0":
        raise RecordError(f"{file}: text in UTF-16 or UTF-32, or no text at all; save it as UTF-8")
    for start, what in _TELLING.items():
        if head.startswith(start):
            raise RecordError(f"{file}: {what}")
    return "parquet" if head.startswith(b"PAR1") or file.suffix.lower() == ".parquet" else "records"
