"""WebDataset shards with any members -> rows, through webdataset's own reader.

That reader is lenient: of a tar that is cut it gives what is left, a key whose members lie apart becomes two samples, a
link or a file without an extension is passed over, and nobody hears of it. So the headers of every shard are walked
beforehand with the reader that training uses (`data.index.tar`): a shard that is not whole is refused, and what
webdataset would pass over is a row with its reason. What it then reads are stretches of whole samples, some at a time,
in many processes. Its decoders, which unpickle, and its addresses, which run commands, are never used.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from neo_lightning.data.facts import ShardError
from neo_lightning.data.index.tar import entries, padded
from neo_lightning.importers import layouts
from neo_lightning.importers.columns import Reading
from neo_lightning.importers.media_folder import MAX_BYTES
from neo_lightning.importers.record import Record, RecordError
from neo_lightning.importers.task import Job, Listing, Row, Task, digest_of_files, find_files, shown

_TASK_SAMPLES = 64
_TASK_BYTES = 64 << 20
_COMPRESSED: dict[bytes, Callable[[Path, str], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zX": lzma.open}
_META = re.compile(r"__[^/]*__($|/)")
"""What webdataset takes for notes about the shard."""


@dataclass(kw_only=True)
class _Stretch:
    """Samples that follow each other in a shard, or one that cannot be read."""

    start: int
    """First byte."""
    stop: int
    keys: list[str] = field(default_factory=list)
    reason: str = ""
    """Why nothing of it is read."""


def listing(inputs: list[Path]) -> Listing:
    """See `task.Format`. The total is in samples; all shards are looked through, so that each damaged one is named."""
    files, damaged, total = _files(inputs), [], 0
    found = digest_of_files(files)
    for file in files:
        try:
            total += sum(len(stretch.keys) for stretch in _stretches(file))
        except RecordError as error:
            damaged.append(str(error))
    if damaged:
        more = f"\n... and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise RecordError(
            f"{len(damaged)} of {len(files)} shards cannot be read as they are, and webdataset would lose part of them "
            "without a word; fetch or write them again, or name the others as --input:\n"
            + "\n".join(damaged[:10])
            + more
        )
    return Listing(total=total, digest=found.digest)


def split(inputs: list[Path]) -> Iterator[Task]:
    """See `task.Format`."""
    first = 0
    for file in _files(inputs):
        for stretch in _stretches(file):
            count = len(stretch.keys)
            yield Task(first=first, count=count, content=(file, stretch), progress=first + count)
            first += count


def rows(task: Task, job: Job) -> Iterator[Row]:
    """See `task.Format`."""
    file, stretch = task.content
    names = [f"{shown(file.name)}, {shown(key)}" for key in stretch.keys]
    if stretch.reason:
        yield names[0], RecordError(stretch.reason)
        return
    done = 0
    try:
        with _open(file) as opened:
            part = {"url": str(file), "stream": _Part(opened, stretch)}
            for sample in group_by_keys(tar_file_expander([part])):
                key = sample.pop("__key__")
                members = {name: data for name, data in sample.items() if name != "__url__"}
                yield names[done], {"map": job.fields, "key": key, "members": members}
                done += 1
        reason = "webdataset's reader does not give this sample"
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        reason = f"cannot be read: {error}"
    for where in names[done:]:
        yield where, RecordError(reason)


def read_record(item: Mapping[str, Any], reading: Reading) -> Record:
    """One sample, as `rows` yields it, in common form.

    Raises:
        RecordError: see `FieldMap.record` and `layouts.read_record`.
    """
    columns, unused = item["map"].record(item["key"], item["members"])
    record = layouts.read_record(columns, reading)
    return replace(record, unused=(*record.unused, *unused))


def first_members(inputs: list[Path]) -> list[str]:
    """Extensions of the first sample's members, for a message that says what could be asked for."""
    found: dict[str, list[str]] = {}
    with _open(_files(inputs)[0]) as opened:
        for _, name, *_ in entries(_reader(opened), opened.seek(0, os.SEEK_END), ""):
            key, extension = base_plus_ext(name)
            if key is not None and (not found or key in found):
                found.setdefault(key, []).append(extension)
    return next(iter(found.values()), [])


def _files(inputs: list[Path]) -> list[Path]:
    return find_files(inputs, ("*.tar", "*.tar.gz", "*.tgz", "*.tar.bz2", "*.tar.xz"))


def _stretches(file: Path) -> Iterator[_Stretch]:
    """A shard's samples, some at a time; then what belongs to no sample.

    Raises:
        RecordError: the shard is not whole, or holds a key's members apart.
    """
    with _open(file) as opened:
        samples, strays = _samples(opened, shown(file))
        whole = _magic(file) in _COMPRESSED  # one cannot start in the middle
    current: _Stretch | None = None
    for sample in samples:
        full = (
            current is not None
            and not whole
            and (len(current.keys) >= _TASK_SAMPLES or current.stop - current.start >= _TASK_BYTES)
        )
        if current is None or sample.reason or current.reason or full or sample.start != current.stop:
            if current is not None:
                yield current
            current = sample
        else:
            current.keys += sample.keys
            current.stop = sample.stop
    yield from [current] if current is not None else []
    yield from strays


def _samples(opened: IO[bytes], shard: str) -> tuple[list[_Stretch], list[_Stretch]]:
    """One stretch for each sample, and one for each member that webdataset gives to no sample."""
    samples: list[_Stretch] = []
    strays: list[_Stretch] = []
    seen: dict[str, set[str]] = {}
    end = 0
    try:
        size = opened.seek(0, os.SEEK_END)
        for _, name, regular, offset, length in entries(_reader(opened), size, shard):
            start, end = end, offset + padded(length)
            key, extension = base_plus_ext(name)
            if key is None or _META.match(name):
                strays.append(_Stretch(start=start, stop=end, keys=[name], reason=_stray(key)))
                if samples:
                    samples[-1].stop = end
                continue
            if not samples or samples[-1].keys != [key]:
                if key in seen:
                    raise RecordError(
                        f"{shard}: members of {key!r} lie apart, or two samples share this key; `tar --sort=name` "
                        "writes what belongs together in one place"
                    )
                seen[key] = set()
                samples.append(_Stretch(start=start, stop=end, keys=[key]))
            if extension.lower() in seen[key]:
                raise RecordError(f"{shard}: two members {name!r} (capitals do not count)")
            seen[key].add(extension.lower())
            samples[-1].stop = end
            if not regular:
                samples[-1].reason = f"member {name!r} is a link or a device, which webdataset passes over"
            elif length > MAX_BYTES:
                samples[-1].reason = f"member {name!r}: {length} bytes are more than the cap of {MAX_BYTES}"
    except ShardError as error:
        raise RecordError(str(error)) from error
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise RecordError(f"{shard}: {error}") from error
    return samples, strays


def _stray(key: str | None) -> str:
    if key is not None:
        return "belongs to no sample: webdataset takes names such as __x__ for notes about the shard"
    return "belongs to no sample: a name needs a first part and an extension, as in KEY.jpg"


@contextmanager
def _open(file: Path) -> Iterator[IO[bytes]]:
    """The tar itself, whatever it is packed in.

    Raises:
        RecordError: it cannot be opened.
    """
    try:
        with _COMPRESSED.get(_magic(file), open)(file, "rb") as opened:
            yield opened
    except OSError as error:
        raise RecordError(f"{shown(file)}: {error.strerror or error}") from error


def _magic(file: Path) -> bytes:
    with file.open("rb") as opened:
        start = opened.read(5)
    return next((magic for magic in _COMPRESSED if start.startswith(magic)), b"")


def _reader(opened: IO[bytes]) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        opened.seek(offset)
        return opened.read(length)

    return read


class _Part:
    """A stretch of a tar as a stream that ends with it."""

    def __init__(self, opened: IO[bytes], stretch: _Stretch) -> None:
        opened.seek(stretch.start)
        self._opened, self._left = opened, stretch.stop - stretch.start

    def read(self, size: int) -> bytes:
        data = self._opened.read(min(size, self._left))
        self._left -= len(data)
        return data
