"""A training checkpoint's tensors: one safetensors file per rank, readable by any number of ranks.

In: each rank's tensors by name; a distributed one (`DTensor`, sharded on its first axis as FSDP2 does, with or without
copies) is written as its local rows, with the global shape and the first row in the file's header. Out: any range of
rows of any tensor, whatever number of ranks wrote it. Nothing is pickled, so a checkpoint cannot run code when it is
opened; and no rank ever holds more than its part. The trade-off against torch's own distributed checkpoint: sharding on
other axes is not supported.

    rank-00000-of-00002.safetensors    weights/a rows 0..3 of 5, weights/b (whole: only rank 0 writes whole tensors)
    rank-00001-of-00002.safetensors    weights/a rows 3..5 of 5
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard

_FILE = re.compile(r"rank-(\d{5})-of-(\d{5})\.safetensors")


def shard_rows(tensor: Tensor) -> tuple[Tensor, int]:
    """Local rows of a tensor and the index of the first one: (itself, 0) where it is not distributed.

    Raises:
        ValueError: a DTensor that is not sharded on its first axis, over a mesh [shard] or [replica, shard].
    """
    if not isinstance(tensor, DTensor):
        return tensor, 0
    *copies, sharded = tensor.placements
    if sharded != Shard(0) or copies not in ([], [Replicate()]):
        raise ValueError(f"only tensors sharded on their first axis can be saved, got {tensor.placements}")
    # torch.chunk's rule, which FSDP2 follows: ceil(rows / ranks) rows each, the last ranks may have fewer or none
    rows, mesh = tensor.shape[0], tensor.device_mesh
    each = -(-rows // mesh.size(-1))
    return tensor.to_local(), min(mesh.get_local_rank(mesh.ndim - 1) * each, rows)


def write_rank(folder: Path, rank: int, world: int, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Write this rank's file into `folder`.

    Args:
        folder: exists already.
        rank: this rank; rank 0 also writes the tensors that are not distributed.
        world: number of ranks, all of which write.
        tensors: name -> tensor, the same names on every rank.
        own: name -> tensor that only this rank has; the names differ between ranks.
    """
    data: dict[str, Tensor] = {name: x.detach().cpu().contiguous() for name, x in own.items()}
    layout: dict[str, tuple[list[int], int]] = {}
    for name, tensor in tensors.items():
        local, first = shard_rows(tensor.detach())
        if isinstance(tensor, DTensor):
            if local.numel() == 0:
                continue
            layout[name] = (list(tensor.shape), first)
        elif rank:
            continue
        data[name] = local.cpu().contiguous()
    save_file(data, folder / f"rank-{rank:05d}-of-{world:05d}.safetensors", metadata={"layout": json.dumps(layout)})


@dataclass(frozen=True)
class _Piece:
    file: Path
    first: int
    """Index of the piece's first row in the whole tensor."""
    shape: tuple[int, ...]


class ShardReader:
    """The tensors of a checkpoint folder, by name. Files are memory-mapped; only the rows asked for are read."""

    def __init__(self, folder: Path) -> None:
        """Read the headers of all files.

        Raises:
            ValueError: a file is missing or damaged.
        """
        self.folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Name -> shape of the whole tensor."""
        self._pieces: dict[str, list[_Piece]] = {}
        self._handles: dict[Path, safe_open] = {}
        files = {int(m[1]): (path, int(m[2])) for path in sorted(folder.iterdir()) if (m := _FILE.fullmatch(path.name))}
        world = max((count for _, count in files.values()), default=0)
        if not files or sorted(files) != list(range(world)):
            raise ValueError(f"{folder}: expected the files of {world or 'all'} ranks, found those of {sorted(files)}")
        for path, _ in files.values():
            self._index(path)

    def _index(self, path: Path) -> None:
        try:
            handle = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: not a readable safetensors file ({error})") from error
        layout = json.loads((handle.metadata() or {}).get("layout", "{}"))
        self._handles[path] = handle
        for name in handle.keys():  # noqa: SIM118 - not a mapping
            shape = tuple(handle.get_slice(name).get_shape())
            whole, first = layout.get(name, (shape, 0))
            self.shapes[name] = tuple(whole)
            self._pieces.setdefault(name, []).append(_Piece(path, first, shape))

    def read(self, name: str, first: int = 0, rows: int | None = None) -> Tensor:
        """Rows `first` to `first + rows` of a tensor (all by default; a tensor without axes is read whole).

        Raises:
            KeyError: no tensor of that name.
            ValueError: the files do not hold all of these rows.
        """
        if name not in self.shapes:
            raise KeyError(f"{self.folder} has no tensor {name}")
        shape = self.shapes[name]
        if not shape:
            return self._handles[self._pieces[name][0].file].get_tensor(name)
        last = shape[0] if rows is None else first + rows
        parts = []
        place = first
        for piece in sorted(self._pieces[name], key=lambda p: p.first):
            start, stop = max(place, piece.first), min(last, piece.first + piece.shape[0])
            if start == place and start < stop:
                parts.append(self._handles[piece.file].get_slice(name)[start - piece.first : stop - piece.first])
                place = stop
        if place < last:
            raise ValueError(f"{self.folder}: rows {place} to {last} of {name} are missing")
        if not parts:
            return torch.empty((0, *shape[1:]))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
