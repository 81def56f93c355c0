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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neo_lightning.data.facts import SampleError, costs_one_sample
from neo_lightning.data.index.tar_write import tar_member
from neo_lightning.data.text.conversation import parse_turns, places
from neo_lightning.importers.formats import FORMATS
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
                with costs_one_sample("the record cannot be read"):
                    modality, members = _sample(read(item, job.caption), job.media)
            except (RecordError, SampleError) as error:
                done.append(Converted(where=where, reason=str(error)))
                continue
            size = 0
            for extension, data in members:
                size += sum(file.write(piece) for piece in tar_member(f"{number:09d}.{extension}", data))
            done.append(Converted(where=where, modality=modality, size=size))
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
    members = [("json", _json(record))]
    queues: dict[str, Iterator[Any]] = {"image": iter(record.images), "video": iter(record.videos)}
    for number, kind in enumerate(shown):
        extension, data = read_medium(kind, next(queues[kind]), folder)
        members.append((extension if len(shown) == 1 else f"{number}.{extension}", data))
    if "video" in shown:
        return "video", members
    return ("text", "image", "multi_image")[min(2, len(shown))], members


def _json(record: Record) -> bytes:
    try:
        return json.dumps({**record.tree, "meta": record.meta}).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"the record cannot be written as JSON: {error}") from error
