"""A folder of pictures and clips with their captions -> rows.

    x.jpg + x.txt                                     a medium and its caption
    metadata.jsonl | metadata.csv | captions.json     records with `file_name`, counted from that file's folder, and
                                                      `text` or `caption` (or `messages` ...); such a file describes its
                                                      folder and all folders below

Hidden files and files of other kinds are passed over; a medium without a caption and a caption without a medium are
reported. Order is by name. One directory's names are held at a time; links to directories are reported, not followed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from neo_lightning.data.files import decode_text
from neo_lightning.data.index.tar import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from neo_lightning.importers import json_records
from neo_lightning.importers.columns import COLUMNS
from neo_lightning.importers.media import read_file
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.task import Job, Listing, Row, Task, shown

METADATA = ("metadata.jsonl", "metadata.json", "metadata.csv", "captions.jsonl", "captions.json")
_LINKED = "a link to a folder, which is not walked: its files might count twice; name the folder itself as --input"
_MEDIA = IMAGE_EXTENSIONS + VIDEO_EXTENSIONS

_Entry = tuple[str, list[str], list[str]]
"""Common name without extension, media, captions; all from the folder on. Without files it is a link to a folder."""


def listing(inputs: list[Path]) -> Listing:
    """See `task.Format`. The total is in pairs and bytes of metadata files."""
    hasher, total = hashlib.sha256(), 0
    root = _root(inputs)
    for entry in _walk(root):
        if isinstance(entry, str):
            status = (root / entry).stat()
            hasher.update(f"{entry}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
            total += status.st_size
        else:
            hasher.update(repr(entry).encode())
            total += 1
    return Listing(total=total, digest=hasher.hexdigest())


def split(inputs: list[Path]) -> Iterator[Task]:
    """See `task.Format`."""
    root = _root(inputs)
    first = progress = 0
    pairs: list[_Entry] = []

    def task(content: tuple[str, list[Any]], file: str = "", container: str = "media with a .txt") -> Task:
        count = len(content[1])
        return Task(first=first, count=count, content=content, progress=progress, file=file, container=container)

    for entry in _walk(root):
        if not isinstance(entry, str):
            pairs.append(entry)
        if pairs and (isinstance(entry, str) or len(pairs) == json_records.TASK_RECORDS):
            progress += len(pairs)
            yield task(("pairs", pairs))
            first, pairs = first + len(pairs), []
        if isinstance(entry, str):
            before = progress
            for batch, read, container in json_records.batches(root / entry):
                progress = before + read
                yield task((entry, batch), shown(entry), container)
                first += len(batch)
    if pairs:
        progress += len(pairs)
        yield task(("pairs", pairs))


def rows(task: Task, job: Job) -> Iterator[Row]:
    """See `task.Format`."""
    kind, content = task.content
    if kind == "pairs":
        for stem, media, captions in content:
            linked = not media and not captions
            yield shown(stem), RecordError(_LINKED) if linked else _pair(media, captions, job)
        return
    for where, text in content:
        item = json_records.parse(text)
        if isinstance(item, dict):
            item = _below(str(PurePosixPath(kind).parent), item, job)
        yield where, item


def _root(inputs: list[Path]) -> Path:
    if len(inputs) != 1 or not inputs[0].is_dir():
        raise RecordError(f"expected one folder as input, got {', '.join(map(str, inputs))}")
    return inputs[0].resolve()


def _walk(root: Path) -> Iterator[str | _Entry]:
    """A directory's metadata files, or its pairs and then those of the directories below."""
    pending = [""]
    while pending:
        inside = pending.pop()
        try:
            with os.scandir(root / inside) as found:
                entries = sorted((e for e in found if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise RecordError(f"{root / inside}: {error.strerror or error}") from error
        described = [f"{inside}{e.name}" for e in entries if e.name.lower() in METADATA]
        for name in described:
            if not (root / name).resolve().is_relative_to(root):
                raise RecordError(f"{root / name} is a link that leads out of the folder")
        if described:
            yield from described
            continue
        yield from ((f"{inside}{e.name}", [], []) for e in entries if e.is_symlink() and os.path.isdir(e))
        yield from _groups(inside, [e.name for e in entries if not os.path.isdir(e)])
        pending += reversed([f"{inside}{e.name}/" for e in entries if e.is_dir(follow_symlinks=False)])


def _groups(inside: str, names: list[str]) -> Iterator[_Entry]:
    """Media and captions of the same name."""
    groups: dict[str, _Entry] = {}
    for name in names:
        stem, dot, extension = name.rpartition(".")
        if dot and extension.lower() in (*_MEDIA, "txt"):
            _, media, captions = groups.setdefault(stem, (f"{inside}{stem}", [], []))
            (captions if extension.lower() == "txt" else media).append(f"{inside}{name}")
    yield from groups.values()


def _pair(media: list[str], captions: list[str], job: Job) -> dict[str, Any] | RecordError:
    if len(media) != 1 or len(captions) != 1:
        found = (
            f"{', '.join(map(repr, media)) or 'no picture or clip'} and {', '.join(map(repr, captions)) or 'no .txt'}"
        )
        return RecordError(f"expected one picture or clip and one .txt of this name, found {found}")
    try:
        caption = decode_text(read_file(captions[0], job.media)).strip()
        return {"file_name": media[0], job.reading.columns.get("text", "text"): caption}
    except UnicodeDecodeError as error:
        return RecordError(f"{captions[0]!r}: not UTF-8 at byte {error.start}")
    except RecordError as error:
        return error


def _below(folder: str, item: dict[str, Any], job: Job) -> dict[str, Any]:
    """The record with its file names counted from the input folder."""
    columns = ("files", "images", "videos")
    for name in [key for column in columns for key in (*COLUMNS[column], job.reading.columns.get(column, ""))]:
        value = item.get(name)
        if isinstance(value, str):
            item = {**item, name: f"{folder}/{value}"}
        elif isinstance(value, list):
            item = {**item, name: [f"{folder}/{v}" if isinstance(v, str) else v for v in value]}
    return item
