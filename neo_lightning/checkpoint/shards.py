"""A training checkpoint's tensors: one safetensors file per rank, readable by any number of ranks.

In: each rank's tensors by name; a distributed one (`DTensor`, sharded on its first axis as FSDP2 does, with or without
copies) is written as its local rows, with the global shape and the first row in the file's header. Out: any range of
rows of any tensor, whatever number of ranks wrote it, compared with its checksum before it is given out. Nothing is
pickled, so a checkpoint cannot run code when it is opened; and no rank ever holds more than its part. The trade-off
against torch's own distributed checkpoint: sharding on other axes is not supported.

    rank-00000-of-00002.safetensors    weights/a rows 0..3 of 5, weights/b (whole: only rank 0 writes whole tensors)
    rank-00001-of-00002.safetensors    weights/a rows 3..5 of 5

A checksum is that of a file's whole piece of a tensor. A rank that wants some of its rows (other ranks wrote the
checkpoint) checks the whole piece nevertheless: it may read more than it needs, and no flipped bit gets by.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neo_lightning.checkpoint.meta import read_meta
from neo_lightning.checkpoint.rank_file import DamagedError, Header, check, read_header, write_file

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

_FILE = re.compile(r"rank-(\d{5})-of-(\d{5})\.safetensors")
_THREADS = min(8, os.cpu_count() or 1)


def is_distributed(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is a DTensor: none is before somebody has imported the class, which takes a second."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def shard_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """Local rows of a tensor and the index of the first one: (itself, 0) where it is not distributed.

    Raises:
        ValueError: a DTensor that is not sharded on its first axis, over a mesh [shard] or [replica, shard].
    """
    if not is_distributed(tensor):
        return tensor, 0
    from torch.distributed.tensor import Replicate, Shard

    *copies, sharded = tensor.placements
    if sharded != Shard(0) or copies not in ([], [Replicate()]):
        raise ValueError(f"only tensors sharded on their first axis can be saved, got {tensor.placements}")
    # torch.chunk's rule, which FSDP2 follows: ceil(rows / ranks) rows each, the last ranks may have fewer or none
    rows, mesh = tensor.shape[0], tensor.device_mesh
    each = -(-rows // mesh.size(-1))
    return tensor.to_local(), min(mesh.get_local_rank(mesh.ndim - 1) * each, rows)


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one rank writes, as it lies there."""

    tensors: Mapping[str, Tensor]
    """Local rows, by name."""
    own: Mapping[str, Tensor]
    """Tensors that only this rank has; the names differ between ranks."""
    layout: Mapping[str, tuple[list[int], int]]
    """Distributed tensor -> shape of the whole, first local row."""


def local_part(rank: int, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Part:
    """This rank's part of tensors that have the same names on every rank.

    Args:
        rank: this rank; rank 0 also has the tensors that are not distributed.
        tensors: name -> tensor.
        own: name -> tensor that only this rank has.
    """
    local_tensors: dict[str, Tensor] = {}
    layout: dict[str, tuple[list[int], int]] = {}
    for name, tensor in tensors.items():
        local, first = shard_rows(tensor.detach())
        if is_distributed(tensor):
            if local.numel() == 0:
                continue
            layout[name] = (list(tensor.shape), first)
        elif rank:
            continue
        local_tensors[name] = local
    return Part(tensors=local_tensors, own=own, layout=layout)


def write_part(folder: Path, rank: int, world: int, part: Part, metadata: Mapping[str, str]) -> None:
    """Write this rank's file into `folder`, and flush it.

    Args:
        folder: exists already.
        rank: this rank.
        world: number of ranks, all of which write.
        part: its tensors on the host, contiguous.
        metadata: more words for the file's header.

    Raises:
        NotFiniteError: a tensor, but for those of this rank's own, holds NaN or infinity.
        OSError: the file cannot be written.
    """
    file = folder / f"rank-{rank:05d}-of-{world:05d}.safetensors"
    words = {**metadata, "layout": json.dumps(part.layout)}
    write_file(file, {**part.tensors, **part.own}, words, finite=part.tensors.keys())


@dataclass(frozen=True)
class _Piece:
    file: Path
    first: int
    """Index of the piece's first row in the whole tensor."""
    shape: tuple[int, ...]


class ShardReader:
    """The tensors of a checkpoint folder, by name. Files are memory-mapped; only the rows asked for are given out."""

    def __init__(self, folder: Path) -> None:
        """Read the headers of all files.

        Raises:
            DamagedError: a file is missing or damaged, or is no plain file.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Name -> shape of the whole tensor."""
        self._pieces: dict[str, list[_Piece]] = {}
        self._handles: dict[Path, safe_open] = {}
        self._headers: dict[Path, Header] = {}
        self._checked: set[tuple[Path, str]] = set()
        if not folder.is_dir():
            raise DamagedError(f"{folder} is no folder")
        found = [(int(m[1]), int(m[2]), path) for path in sorted(folder.iterdir()) if (m := _FILE.fullmatch(path.name))]
        ranks, world = [rank for rank, _, _ in found], max((count for _, count, _ in found), default=0)
        if not found or ranks != list(range(world)):
            raise DamagedError(f"{folder}: expected the files of {world or 'all'} ranks, found those of {ranks}")
        for _, _, path in found:
            self._index(path)

    @property
    def has_checksums(self) -> bool:
        """Every file does; those of an earlier version do not."""
        return all(header.checksums is not None for header in self._headers.values())

    def _index(self, path: Path) -> None:
        self._headers[path] = header = read_header(path)
        try:
            self._handles[path] = handle = safe_open(path, framework="pt")
            layout = json.loads(header.metadata.get("layout", "{}"))
            for name in handle.keys():  # noqa: SIM118 - not a mapping
                shape = tuple(handle.get_slice(name).get_shape())
                whole, first = _place(layout[name], shape) if name in layout else (shape, 0)
                if self.shapes.setdefault(name, whole) != whole:
                    raise ValueError(f"{name} has another shape in another file")
                self._pieces.setdefault(name, []).append(_Piece(path, first, shape))
        except (SafetensorError, OSError) as error:
            raise DamagedError(f"{path}: not a readable safetensors file ({error})") from error
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise DamagedError(f"{path}: its layout is not one that is written here ({error})") from error

    def check(self, part: int = 0, parts: int = 1) -> None:
        """Compare every `parts`-th piece with its checksum, from number `part` on: processes share the reading.

        Raises:
            DamagedError: one differs.
        """
        pieces = [(file, header, name) for file, header in self._headers.items() for name in header.places]
        pieces.sort(key=lambda piece: piece[1].places[piece[2]][0] - piece[1].places[piece[2]][1])  # largest first
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda piece: check(*piece), pieces[part::parts]):
                pass

    def read(self, name: str, first: int = 0, rows: int | None = None) -> Tensor:
        """Rows `first` to `first + rows` of a tensor (all by default; a tensor without axes is read whole).

        Raises:
            KeyError: no tensor of that name.
            DamagedError: the files do not hold all of these rows, or not as they were written.
        """
        if name not in self.shapes:
            raise KeyError(f"{self.folder} has no tensor {name}")
        shape = self.shapes[name]
        if not shape:
            file = self._pieces[name][0].file
            self._check(file, name)
            return self._handles[file].get_tensor(name)
        last = shape[0] if rows is None else first + rows
        parts = []
        place = first
        for piece in sorted(self._pieces[name], key=lambda p: p.first):
            start, stop = max(place, piece.first), min(last, piece.first + piece.shape[0])
            if start == place and start < stop:
                self._check(piece.file, name)
                parts.append(self._handles[piece.file].get_slice(name)[start - piece.first : stop - piece.first])
                place = stop
        if place < last:
            raise DamagedError(f"{self.folder}: rows {place} to {last} of {name} are missing")
        if not parts:
            return torch.empty((0, *shape[1:]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _check(self, file: Path, name: str) -> None:
        """Once."""
        if (file, name) not in self._checked:
            check(file, self._headers[file], name)
            self._checked.add((file, name))


def _place(entry: Any, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Shape of a whole tensor and first row of a piece of it."""
    whole, first = tuple(int(size) for size in entry[0]), int(entry[1])
    if len(whole) != len(shape) or whole[1:] != shape[1:] or not 0 <= first <= first + shape[0] <= whole[0]:
        raise ValueError(f"rows from {first} on, of shape {list(shape)}, are no part of {list(whole)}")
    return whole, first


def check_checkpoint(folder: Path, part: int = 0, parts: int = 1) -> None:
    """Compare a checkpoint with its checksums; of its tensors one part of `parts`, as processes share them.

    Raises:
        ValueError: it is damaged: names file and tensor.
    """
    read_meta(folder)
    ShardReader(folder).check(part, parts)
