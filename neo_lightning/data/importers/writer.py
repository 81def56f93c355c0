"""Writes samples into one chain of shards per modality; a shard gets its name, and its index, when it is complete."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import IO

from webdataset import TarWriter

from neo_lightning.data.index.scan import index_shard


class ModalityWriter:
    """Context manager. Left by an exception, it leaves only `.tmp` files of the open shards behind."""

    def __init__(self, out: Path, samples_per_shard: int, bytes_per_shard: int) -> None:
        self._out, self._most_samples, self._most_bytes = out, samples_per_shard, bytes_per_shard
        self._open: dict[str, _Shard] = {}
        self._numbers: dict[str, int] = {}

    def write(self, modality: str, key: str, members: dict[str, bytes]) -> None:
        """Add one sample: extension -> content."""
        if modality not in self._open:
            number = self._numbers.get(modality, 0)
            self._numbers[modality] = number + 1
            self._open[modality] = _Shard(self._out / f"{modality}-{number:06d}.tar")
        shard = self._open[modality]
        shard.write(key, members)
        if shard.samples >= self._most_samples or shard.bytes >= self._most_bytes:
            del self._open[modality]
            shard.close()
            shard.name(modality)

    def __enter__(self) -> ModalityWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for modality, shard in self._open.items():
            shard.close()
            if kind is None:
                shard.name(modality)


class _Shard:
    def __init__(self, path: Path) -> None:
        self._path, self.samples, self.bytes = path, 0, 0
        self._partial = path.with_suffix(".tar.tmp")
        self._file: IO[bytes] = self._partial.open("wb")
        self._tar = TarWriter(self._file, encoder=False, mtime=0)

    def write(self, key: str, members: dict[str, bytes]) -> None:
        self._tar.write({"__key__": key, **members})
        self.samples += 1
        self.bytes += sum(map(len, members.values()))

    def close(self) -> None:
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def name(self, modality: str) -> None:
        os.replace(self._partial, self._path)
        index_shard(self._path, modality)
