"""The folder in which media are looked up, and a note of each file as it was found.

No path and no link leads out of the folder, and no device or pipe is opened. What was read, or was not there, is noted
with size, time and checksum, so that an import that is repeated knows what has changed since (`changes`).
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from neo_lightning.data.facts import plain_reason
from neo_lightning.importers.record import RecordError

SHOWN = 200
"""Characters of a file's name in a reason: a name may be anything."""

MAX_BYTES = 2 << 30
"""A file is read as a whole, here and in training."""


@dataclass(frozen=True, slots=True)
class Note:
    """One file as it was found."""

    name: str
    """From the folder on, as the record spells it."""
    size: int
    """Bytes; -1: it could not be read."""
    mtime_ns: int = 0
    crc: int = 0


@dataclass(kw_only=True)
class MediaFolder:
    """A folder, and what has been asked of it."""

    root: Path
    """Resolved."""
    notes: list[Note] = field(default_factory=list)
    """Of the record that is being read."""

    def read(self, name: str) -> bytes:
        """Content of a plain file inside the folder.

        Raises:
            RecordError: no such file, outside the folder, no plain file, or too large.
        """
        try:
            path, status = self._find(name)
            data = path.read_bytes()
        except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a loop of links; ValueError: a NUL
            self.notes.append(Note(name, -1))
            if isinstance(error, RecordError):
                raise
            reason = getattr(error, "strerror", None) or plain_reason(error)
            where = f" in {self.root}" if isinstance(error, FileNotFoundError) else ""
            raise RecordError(f"{name[:SHOWN]!r}: {reason}{where}") from error
        self.notes.append(Note(name, status.st_size, status.st_mtime_ns, zlib.crc32(data)))
        return data

    def take_notes(self) -> tuple[Note, ...]:
        """The notes so far, which start anew."""
        notes, self.notes = tuple(self.notes), []
        return notes

    def changed(self, note: Note) -> str:
        """How a file differs from its note, or nothing; content is compared where only the time differs."""
        try:
            path, status = self._find(note.name)
            if note.size < 0:
                return "could not be read and can be now"
            if status.st_size != note.size:
                return "another size"
            same = status.st_mtime_ns == note.mtime_ns or zlib.crc32(path.read_bytes()) == note.crc
            return "" if same else "other content"
        except (OSError, RuntimeError, ValueError):
            return "" if note.size < 0 else GONE

    def _find(self, name: str) -> tuple[Path, os.stat_result]:
        path, said = (self.root / name).resolve(), repr(name[:SHOWN])
        if not path.is_relative_to(self.root):
            if Path(os.path.normpath(self.root / name)).is_relative_to(self.root):
                raise RecordError(
                    f"{said} is a link that leads outside the media folder {self.root}, to {path}: name a folder "
                    "that holds both (and file names from there on), or a copy with links followed (`cp -rL`)"
                )
            raise RecordError(f"{said} lies outside the media folder {self.root}; --media names another")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device never ends
            raise RecordError(f"{said} is no plain file")
        if status.st_size > MAX_BYTES:
            raise RecordError(f"{said}: {status.st_size} bytes are more than the cap of {MAX_BYTES}")
        return path, status


GONE = "gone"
"""The shards hold the file, so this alone is no reason to import anew."""


def note_lines(notes: Iterable[Note]) -> bytes:
    """Notes as lines of JSON."""
    return b"".join(json.dumps([n.name, n.size, n.mtime_ns, n.crc]).encode() + b"\n" for n in notes)


def changes(file: Path, size: int, folder: MediaFolder) -> dict[str, list[str]]:
    """Kind of change -> names of files that differ from their notes.

    Args:
        file: notes, of which the first `size` bytes count.
    """
    found: dict[str, dict[str, None]] = {}
    for note in _notes(file, size):
        if kind := folder.changed(note):
            found.setdefault(kind, {})[note.name] = None
    return {kind: list(names) for kind, names in found.items()}


def _notes(file: Path, size: int) -> Iterator[Note]:
    with file.open("rb") as lines:
        for line in lines:
            size -= len(line)
            if size < 0:
                return
            yield Note(*json.loads(line))
