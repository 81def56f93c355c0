"""One rank's file of a checkpoint: safetensors with a checksum of every byte, durable when the call returns.

In: tensors on the host. Out: a file that any reader of safetensors opens, and that `check` can tell from one in which
a single bit is another.

    8 bytes   length of the header
    header    JSON: dtype, shape and place of each tensor; under `__metadata__` the caller's words, and
              crc32         of each tensor's bytes, eight hexadecimal digits by name
              header_crc32  of these first two parts, its own digits taken as zeros
    data      the tensors, the widest numbers first, without gaps

Checksums are known when the data have been written, so a header of the same length goes first and the true one is laid
over it: the tensors are passed over once, in pieces of 16 MB, which lets other threads run.
"""

from __future__ import annotations

import json
import os
import stat
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

PIECE = 16 * 10**6
"""Bytes that are checksummed and written at a time."""
_LARGEST_HEADER = 100 * 10**6
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ZEROS = f"{0:08x}"


class DamagedError(ValueError):
    """A file of a checkpoint is not what was written; names file and tensor."""


class NotFiniteError(ValueError):
    """A tensor that is to be saved holds NaN or infinity; names it."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of itself."""

    places: Mapping[str, tuple[int, int]]
    """Tensor -> first byte in the file, and the byte behind its last."""
    metadata: Mapping[str, str]
    checksums: Mapping[str, str] | None
    """Tensor -> CRC-32; None in a file of an earlier version."""


def write_file(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], finite: Collection[str]) -> None:
    """Write and flush a file.

    Args:
        file: new, or replaced in place.
        tensors: on the host, contiguous.
        metadata: words for the header.
        finite: names of the tensors that must hold neither NaN nor infinity.

    Raises:
        NotFiniteError: one of them does; the file is then of no use.
        OSError: it cannot be written.
    """
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    checksums = dict.fromkeys(order, _ZEROS)
    with file.open("wb") as out:
        out.write(_header(tensors, metadata, checksums))
        for name in order:
            checksums[name] = _write_tensor(out, name, tensors[name], check=name in finite)
        out.seek(0)
        out.write(_header(tensors, metadata, checksums))
        out.flush()
        os.fsync(out.fileno())


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], checksums: Mapping[str, str]) -> bytes:
    """The first two parts, for tensors in the order of `checksums`."""
    words = {**metadata, "crc32": json.dumps(checksums), "header_crc32": _ZEROS}
    entries: dict[str, Any] = {"__metadata__": words}
    place = 0
    for name in checksums:
        tensor = tensors[name]
        entries[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + tensor.nbytes],
        }
        place += tensor.nbytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    raw = len(text).to_bytes(8, "little") + text
    return raw.replace(_own_checksum(_ZEROS), _own_checksum(f"{zlib.crc32(raw):08x}"))


def _own_checksum(digits: str) -> bytes:
    return f'"header_crc32":"{digits}"'.encode()


def _write_tensor(out: IO[bytes], name: str, tensor: Tensor, *, check: bool) -> str:
    checksum = 0
    for piece in tensor.reshape(-1).split(max(1, PIECE // tensor.element_size())):
        if check and not _finite(piece):
            raise NotFiniteError(f"{name} holds numbers that are not finite")
        data = memoryview(piece.view(torch.uint8).numpy())
        checksum = zlib.crc32(data, checksum)
        out.write(data)
    return f"{checksum:08x}"


def _finite(piece: Tensor) -> bool:
    """Whether no number is NaN or infinite. A sum says so in one pass, if it does not overflow by itself."""
    if not piece.is_floating_point():
        return True
    if piece.dtype == torch.float32:  # of numpy, which leaves torch's threads to the training
        with np.errstate(all="ignore"):
            if np.isfinite(np.add.reduce(piece.numpy())):
                return True
    return bool(torch.isfinite(piece.float()).all())


@contextmanager
def open_regular(file: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading that is a plain one: no pipe, which might never answer, no link, which may lead anywhere.

    Raises:
        DamagedError: it is something else, or cannot be opened.
    """
    try:
        handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        problem = "is a link" if file.is_symlink() else f"cannot be opened ({error.strerror})"
        raise DamagedError(f"{file} {problem}; a checkpoint holds plain files alone") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise DamagedError(f"{file} is no plain file; a checkpoint holds plain files alone")
    with os.fdopen(handle, "rb", buffering=0) as stream:
        yield stream


def read_header(file: Path) -> Header:
    """Read a file's header, and check it against its own checksum.

    Raises:
        DamagedError: it is not what was written, or the file is longer or shorter than it says.
    """
    try:
        with open_regular(file) as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if length > min(size - 8, _LARGEST_HEADER):
                raise DamagedError(
                    f"{file}: not a readable safetensors file (cut short, or a header of {length} bytes)"
                )
            raw = length.to_bytes(8, "little") + stream.read(length)
        entries = json.loads(raw[8:])
        metadata = {str(key): str(value) for key, value in entries.pop("__metadata__", {}).items()}
        places = {}
        for name, entry in entries.items():
            first, last = (8 + length + int(offset) for offset in entry["data_offsets"])
            places[name] = (first, last)
            if not 8 + length <= first <= last <= size:
                raise DamagedError(f"{file}: {name} is said to lie outside of the file")
        own = metadata.get("header_crc32")
        if (own is None) != ("crc32" not in metadata):
            raise DamagedError(f"{file}: the header has lost a checksum")
        if own is not None and f"{zlib.crc32(raw.replace(_own_checksum(own), _own_checksum(_ZEROS))):08x}" != own:
            raise DamagedError(f"{file}: the header is not the one that was written (its checksum differs)")
        checksums = None if own is None else dict(json.loads(metadata["crc32"]))
        if checksums is not None and (
            set(checksums) != set(places) or max((end for _, end in places.values()), default=8 + length) != size
        ):
            raise DamagedError(f"{file}: not the tensors, or not the length, that were written")
    except DamagedError:
        raise
    except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError, MemoryError) as error:
        raise DamagedError(f"{file}: not a readable safetensors file ({type(error).__name__}: {error})") from error
    return Header(places=places, metadata=metadata, checksums=checksums)


def check(file: Path, header: Header, name: str) -> None:
    """Compare a tensor's bytes with its checksum; nothing to compare in a file without.

    Raises:
        DamagedError: they differ, or cannot be read.
    """
    if header.checksums is None:
        return
    place, last = header.places[name]
    checksum = 0
    try:
        with open_regular(file) as stream:
            stream.seek(place)
            while place < last and (data := stream.read(min(PIECE, last - place))):
                checksum, place = zlib.crc32(data, checksum), place + len(data)
    except OSError as error:
        raise DamagedError(f"{file}: {name} cannot be read ({error.strerror})") from error
    if f"{checksum:08x}" != header.checksums[name]:
        raise DamagedError(f"{file}: {name} is not what was written (its checksum differs)")
