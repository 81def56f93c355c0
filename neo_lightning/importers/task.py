"""What passes between the process that splits the input and the processes that read it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from neo_lightning.importers.columns import Reading
from neo_lightning.importers.fields import FieldMap
from neo_lightning.importers.media_folder import MediaFolder
from neo_lightning.importers.record import RecordError


@dataclass(frozen=True, kw_only=True)
class Task:
    """Some records that follow each other."""

    first: int
    """Number of the first record, counted over the whole input: samples are named by it."""
    count: int
    """Records, good and bad."""
    content: Any
    """What the format's `rows` needs to read them."""
    progress: int
    """How far the input has been read after these, in the unit of `Listing.total`."""
    file: str = ""
    """The file that holds them, for the report."""
    container: str = ""
    """How they lie in it: JSON Lines, CSV, ..."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The input as found: what the progress bar and a resumed import need to know."""

    total: int
    """Bytes or records, whatever the format counts in."""
    digest: str
    """Changes when the input does."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is the same for all tasks of an import."""

    format: str
    media: MediaFolder | None
    """Where file names are looked up."""
    reading: Reading
    """The user's names of columns and roles."""
    partial: Path
    """Folder for unfinished files."""
    fields: FieldMap = field(default_factory=FieldMap)
    """What the members of a WebDataset sample mean."""
    hold_out: float = 0.0
    """Share of the samples that is held out."""


Row = tuple[str, dict[str, Any] | RecordError]
"""Where a record stands (file and line), and the record, or why there is none."""


class Format(Protocol):
    """A module that reads one kind of input."""

    def listing(self, inputs: list[Path]) -> Listing:
        """Look at the input without reading it all.

        Raises:
            RecordError: it cannot be read.
        """

    def split(self, inputs: list[Path]) -> Iterator[Task]:
        """Cheap and always the same: an import is resumed by passing over the tasks that are done."""

    def rows(self, task: Task, job: Job) -> Iterator[Row]:
        """The records of a task; called in another process."""


def digest_of_files(files: list[Path]) -> Listing:
    """Sizes and times of change; the total is in bytes.

    Raises:
        RecordError: no such file.
    """
    hasher, total = hashlib.sha256(), 0
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise RecordError(f"{file}: {error.strerror or error}") from error
        total += status.st_size
        hasher.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return Listing(total=total, digest=hasher.hexdigest())


def find_files(inputs: list[Path], patterns: tuple[str, ...]) -> list[Path]:
    """The inputs themselves; of a folder, the files in it that match, sorted.

    Raises:
        RecordError: a folder without such files.
    """
    found: list[Path] = []
    for path in inputs:
        files = sorted({file for pattern in patterns for file in path.rglob(pattern)}) if path.is_dir() else [path]
        if not files:
            raise RecordError(f"{path}: no {' or '.join(patterns)} in this folder")
        found += files
    return found


def shown(path: str | Path) -> str:
    """A file's name for people: control characters and what is no UTF-8 escaped."""
    name = str(path)
    return name if name.isprintable() else ascii(name)
