"""What two checkpoints are compared by: their files differ in a checksum of notes that hold seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from neo_lightning.checkpoint.meta import read_meta
from neo_lightning.checkpoint.shards import ShardReader

TIMES = ("trained_s",)
"""Notes of how long something took."""


def contents(folder: Path) -> dict[str, Any]:
    """Bytes of every tensor, random states included, and the notes without times."""
    reader = ShardReader(folder)
    tensors = {name: reader.read(name).numpy().tobytes() for name in sorted(reader.shapes)}
    return {**tensors, "meta": repr(_timeless(read_meta(folder)))}


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(held) for key, held in value.items() if key not in TIMES}
    return value
