"""The formats by name: what splits the input into rows, and what reads a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from neo_lightning.importers import captions, folder, json_records, llava, messages, parquet, webdataset
from neo_lightning.importers.record import Record
from neo_lightning.importers.task import Format

ReadRecord = Callable[[dict[str, Any], str | None], Record]

FORMATS: dict[str, tuple[Format, ReadRecord]] = {
    "llava": (json_records, lambda item, caption: llava.read_record(item)),
    "messages": (json_records, lambda item, caption: messages.read_record(item)),
    "parquet": (parquet, captions.read_record),
    "folder": (folder, captions.read_record),
    "webdataset": (webdataset, lambda item, caption: webdataset.read_record(item)),
}
