"""A task -> finished tar members of its samples, in a file of their own.

Runs in another process. Media go to the file and not through a pipe, so that memory is that of one sample, and the
process that writes shards only copies ranges of bytes.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from neo_lightning.data.facts import SampleError
from neo_lightning.data.index.tar_write import tar_member
from neo_lightning.data.media.image import image_facts
from neo_lightning.data.text.conversation import parse_turns, places
from neo_lightning.importers.formats import FORMATS
from neo_lightning.importers.grounding import fill
from neo_lightning.importers.media import read_medium
from neo_lightning.importers.record import Record, RecordError
from neo_lightning.importers.task import Job, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """One record: a sample, or the reason why there is none."""

    where: str
    modality: str = ""
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


def convert(task: Task, job: Job) -> tuple[Path, list[Converted]]:
    """All records of a task, in order; the caller removes the file."""
    split, read = FORMATS[job.format]
    done: list[Converted] = []
    handle, name = tempfile.mkstemp(prefix="task-", dir=job.partial)
    with os.fdopen(handle, "wb") as file:
        for number, (where, item) in enumerate(split.rows(task, job), start=task.first):
            try:
                if isinstance(item, RecordError):
                    raise item
                record = read(item, job.reading)
                modality, members = _sample(record, job.media)
            except (RecordError, SampleError) as error:
                done.append(Converted(where=where, reason=str(error)))
                continue
            except Exception as error:  # whatever one record makes of a library, the others go on
                reason = f"cannot be read ({type(error).__name__}: {error})"
                done.append(Converted(where=where, reason=reason))
                continue
            size = 0
            for extension, data in members:
                size += sum(file.write(piece) for piece in tar_member(f"{number:09d}.{extension}", data))
            layout = f"{task.container}, {record.layout}"
            converted = Converted(where=where, modality=modality, size=size, file=task.file, layout=layout)
            done.append(replace(converted, used=record.used, unused=record.unused))
    return Path(name), done


def _sample(record: Record, folder: Path | None) -> tuple[str, list[tuple[str, bytes]]]:
    """Modality and the sample's files by extension. Everything that training would refuse is refused here."""
    shown = places(record.tree)
    if not shown and len(record.images) + len(record.videos) == 1:
        shown = ["image"] if record.images else ["video"]
    named = Counter({"image": len(record.images), "video": len(record.videos)})
    for kind in ("image", "video"):
        if shown.count(kind) != named[kind]:
            raise RecordError(f"text has {shown.count(kind)} places for {kind}s, the record names {named[kind]}")
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


def _json(record: Record) -> bytes:
    try:
        return json.dumps({**record.tree, "meta": record.meta}).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"the record cannot be written as JSON: {error}") from error
