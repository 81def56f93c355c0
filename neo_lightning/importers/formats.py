"""The formats by name: what splits the input into rows, and what reads a row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from neo_lightning.importers import auto, folder, json_records, parquet, webdataset
from neo_lightning.importers.columns import Reading
from neo_lightning.importers.layouts import read_record
from neo_lightning.importers.record import Record
from neo_lightning.importers.task import Format

ReadRecord = Callable[[dict[str, Any], Reading], Record]

FORMATS: dict[str, tuple[Format, ReadRecord]] = {
    "auto": (auto, read_record),
    "llava": (json_records, partial(read_record, only="conversations")),
    "messages": (json_records, partial(read_record, only="messages")),
    "parquet": (parquet, read_record),
    "folder": (folder, read_record),
    "webdataset": (webdataset, webdataset.read_record),
}
"""`auto` looks at each file; the others insist."""
