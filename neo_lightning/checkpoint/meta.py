"""Lightning's part of a checkpoint: loops, callbacks, the data's position. Plain values; nothing in it is run.

`meta.pt` has its checksum in the header of rank 0's file, which is written behind it.
"""

from __future__ import annotations

import io
import os
import zlib
from pathlib import Path
from typing import Any

import torch

from neo_lightning.checkpoint.rank_file import DamagedError, open_regular, read_header

META = "meta.pt"
_CHECKSUM = "meta_crc32"


def pack_meta(content: dict[str, Any]) -> bytes:
    """What `meta.pt` will hold: packed before anything of it moves on."""
    memory = io.BytesIO()
    torch.save(content, memory)
    return memory.getvalue()


def write_meta(folder: Path, data: bytes) -> dict[str, str]:
    """Write and flush `meta.pt`; returns its checksum as rank 0's file is to say it."""
    with (folder / META).open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return {_CHECKSUM: f"{zlib.crc32(data):08x}"}


def read_meta(folder: Path) -> dict[str, Any]:
    """What `pack_meta` was given.

    Raises:
        DamagedError: the folder has no `meta.pt`, or not the one that was written.
        ValueError: it holds more than plain values.
    """
    file = folder / META
    if not os.path.lexists(file):
        raise DamagedError(f"{folder} is not a checkpoint: expected a folder with {META} and rank-*.safetensors")
    with open_regular(file) as stream:
        data = stream.readall()  # type: ignore[attr-defined]
    expected = _checksum(folder)
    if expected is not None and f"{zlib.crc32(data):08x}" != expected:
        raise DamagedError(f"{file} is not what was written (its checksum differs)")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # of a file from outside torch raises whatever its parts raise
        raise ValueError(f"{file}: holds more than plain values, refused without running it ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file}: expected a mapping, found {type(content).__name__}")
    return content


def _checksum(folder: Path) -> str | None:
    """None where rank 0's file is of an earlier version; its absence is told by those who read tensors."""
    for file in sorted(folder.glob("rank-00000-of-*.safetensors")):
        return read_header(file).metadata.get(_CHECKSUM)
    return None
