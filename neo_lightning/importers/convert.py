"""A task -> finished tar members of its samples, in a file of their own.

Runs in another process. Media go to the file and not through a pipe, so that memory is that of one sample, and the
process that writes shards only copies ranges of bytes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

from neo_lightning.data.facts import SampleError, costs_one_sample
from neo_lightning.data.index.tar_write import tar_member
from neo_lightning.data.media.image import image_facts
from neo_lightning.data.text.conversation import parse_turns, places
from neo_lightning.importers.formats import FORMATS
from neo_lightning.importers.grounding import fill
from neo_lightning.importers.media import read_medium
from neo_lightning.importers.media_folder import MediaFolder, Note
from neo_lightning.importers.record import Record, RecordError
from neo_lightning.importers.task import Job, Row, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One record: a sample, or the reason why there is none."""

    where: str
    modality: str = ""
    held_out: bool = False
    size: int = 0
    """Bytes of its tar members; samples of a task follow each other in its file."""
    reason: str = ""
    file: str = ""
    """Where it lies, for the report."""
    layout: str = ""
    """Container and layout of the record, for the report."""
    used: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    """As in `Record`."""
    notes: tuple[Note, ...] = ()
    """Of the files in the media folder that it names."""


def convert(
    task: Task, job: Job, lost: Mapping[int, str] = MappingProxyType({}), stop: int | None = None
) -> tuple[Path, list[Converted]]:
    """All records of a task, in order; the caller removes the file.

    Whatever is met in a record costs that record alone. At which one the whole process ended can be told afterwards
    (`at_work`); such a record is passed over with a reason of its own.

    Args:
        lost: number of a record that is not looked at -> reason.
        stop: number of the first record at which not even its row can be read.
    """
    read = FORMATS[job.format][1]
    rows = _rows(task, job, task.first + task.count if stop is None else stop)
    done: list[Converted] = []
    handle, name = tempfile.mkstemp(prefix="task-", dir=job.partial)
    with os.fdopen(handle, "wb") as file, marker(task, job).open("wb", buffering=0) as mark:
        for number in range(task.first, task.first + task.count):
            mark.write(b"%20d" % number)
            where, item = next(rows)
            found = Converted(where=where, reason=lost.get(number, ""))
            members: list[tuple[str, bytes]] = []
            if not found.reason:
                try:
                    if isinstance(item, RecordError):
                        raise item
                    with costs_one_sample("the record cannot be read"):
                        record = read(item, job.reading)
                        with _turns_of(record):
                            modality, members = _sample(record, job.media)
                    found = replace(found, modality=modality, held_out=_held_out(record, job), file=task.file)
                    layout = f"{task.container}, {record.layout}" if task.container else record.layout
                    found = replace(found, layout=layout, used=record.used, unused=record.unused)
                except SampleError as error:
                    found = replace(found, reason=str(error))
            size = 0
            for extension, data in members:
                size += sum(file.write(piece) for piece in tar_member(f"{number:09d}.{extension}", data))
            done.append(replace(found, size=size, notes=() if job.media is None else job.media.take_notes()))
    marker(task, job).unlink()
    return Path(name), done


def _rows(task: Task, job: Job, stop: int) -> Iterator[Row]:
    """The task's rows up to one, and a reason for each after it."""
    done, reason = 0, "the input cannot be read from here on: the process that reads it ends"
    try:
        with costs_one_sample("the input cannot be read from here on"):
            for row in itertools.islice(FORMATS[job.format][0].rows(task, job), stop - task.first):
                yield row
                done += 1
        if done < stop - task.first:
            reason = "the input holds fewer records than before"
    except SampleError as error:
        reason = str(error)
    for number in range(task.first + done, task.first + task.count):
        yield f"record {number}", RecordError(reason)


def marker(task: Task, job: Job) -> Path:
    """File that holds the number of the record that is being read, as long as the task is at work."""
    return job.partial / f"task-{task.first}.at"


def at_work(task: Task, job: Job) -> int | None:
    """The record at which a process that is dead now was at work; None where it had not begun."""
    try:
        return int(marker(task, job).read_bytes()[-20:])
    except (OSError, ValueError):
        return None


def _held_out(record: Record, job: Job) -> bool:
    """By a hash of the record's `id`, else of its media, else of its text: of nothing that depends on other records."""
    if not job.hold_out:
        return False
    media = [*record.images, *record.videos]
    names = [one if isinstance(one, str) else hashlib.sha256(one).hexdigest() for one in media]
    key = json.dumps(record.meta.get("id", names or record.tree), sort_keys=True)
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") < job.hold_out * 2**64


def _sample(record: Record, folder: MediaFolder | None) -> tuple[str, list[tuple[str, bytes]]]:
    """Modality and the sample's files by extension. Everything that training would refuse is refused here."""
    shown = places(record.tree)
    if not shown and len(record.images) + len(record.videos) == 1:
        shown = ["image"] if record.images else ["video"]
    named = Counter({"image": len(record.images), "video": len(record.videos)})
    for kind in ("image", "video"):
        if shown.count(kind) != named[kind]:
            rest = ", ".join(f"`{name}`" for name in record.unused if not name.startswith("text: "))
            more = f"; nothing reads {rest}: --columns {kind}s=KEY names the key of the {kind}s" if rest else ""
            raise RecordError(f"text has {shown.count(kind)} places for {kind}s, the record names {named[kind]}{more}")
    parse_turns(record.tree, None, shown, literal=False)
    media: list[tuple[str, bytes]] = []
    queues: dict[str, Iterator[Any]] = {"image": iter(record.images), "video": iter(record.videos)}
    for kind in shown:
        media.append(read_medium(kind, next(queues[kind]), folder))
    if record.boxes is not None:
        images = [image_facts(data) for kind, (_, data) in zip(shown, media, strict=True) if kind == "image"]
        fill(record.tree["messages"], record.boxes, [(image.width, image.height) for image in images])
    members = [("json", _json(record))]
    for number, (extension, data) in enumerate(media):
        members.append((extension if len(shown) == 1 else f"{number}.{extension}", data))
    if "video" in shown:
        return "video", members
    return ("text", "image", "multi_image")[min(2, len(shown))], members


@contextmanager
def _turns_of(record: Record) -> Iterator[None]:
    """Reasons name the turns as the user's record has them."""
    try:
        yield
    except SampleError as error:
        reason = re.sub(r"`messages\[(\d+)\]`", lambda match: f"`{record.origins[int(match[1])]}`", str(error))
        raise RecordError(reason) from error


def _plain(value: Any) -> str:
    """Values of Parquet that JSON has no form for."""
    if isinstance(value, date | time | timedelta | Decimal):
        return str(value)
    raise TypeError(f"a value of type {type(value).__name__}")


def _finite(value: Any) -> Any:
    """JSON has no NaN, which is pandas' missing value and becomes null, and no infinity, which becomes its name."""
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def _json(record: Record) -> bytes:
    try:
        text = json.dumps(_finite({**record.tree, "meta": record.meta}), default=_plain, allow_nan=False)
        return text.encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"the record cannot be written as JSON: {error}") from error
