"""Finished samples -> one chain of tar shards per modality, such that a killed import can go on to the byte.

Shards grow in a folder for unfinished files. `sync` brings them to disk and says how far they have got; started with
that, a new writer cuts off what came later. A shard that is full is only marked as such, and gets its name after the
caller has stored that mark (`publish`): so a named shard is complete and never changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from neo_lightning.data.index.tar_write import tar_end
from neo_lightning.importers.record import RecordError

_COPY = 1 << 20


class ShardChains:
    """Writes `out/MODALITY-NNNNNN.tar`. `position` is what `sync` returned, `{}` at the start."""

    def __init__(
        self, out: Path, partial: Path, samples_per_shard: int, bytes_per_shard: int, position: dict[str, Any]
    ) -> None:
        self._out, self._partial = out, partial
        self._most_samples, self._most_bytes = samples_per_shard, bytes_per_shard
        self._chains = {modality: _Chain(**values) for modality, values in position.items()}
        self._files: dict[str, IO[bytes]] = {}
        self.publish()
        for modality, chain in self._chains.items():
            if chain.samples:
                self._files[modality] = self._reopen(self._path(modality, chain.number), chain.bytes)

    def append(self, modality: str, source: IO[bytes], size: int) -> bool:
        """Copy the next `size` bytes of `source`, one sample, and say whether its shard is full now."""
        chain = self._chains.setdefault(modality, _Chain())
        if modality not in self._files:
            self._files[modality] = self._path(modality, chain.number).open("wb")
        file, left = self._files[modality], size
        while left:
            data = source.read(min(left, _COPY))
            left -= len(data)
            file.write(data)
        chain.samples, chain.bytes = chain.samples + 1, chain.bytes + size
        full = chain.samples >= self._most_samples or chain.bytes >= self._most_bytes
        if full:
            self._finish(modality)
        return full

    def sync(self) -> dict[str, Any]:
        """Bring everything to disk; how far the chains have got, as JSON."""
        for file in self._files.values():
            _flush(file)
        return {modality: vars(chain).copy() for modality, chain in self._chains.items()}

    def finish(self) -> None:
        """Complete the shards that are open."""
        for modality in list(self._files):
            self._finish(modality)

    def publish(self) -> None:
        """Give complete shards their names, once it is stored that they are complete."""
        for modality, chain in self._chains.items():
            for number in range(chain.published, chain.number):
                path = self._path(modality, number)
                if path.exists():  # else the name was given before the import was killed
                    os.replace(path, self._out / path.name)
            chain.published = chain.number

    def close(self) -> None:
        """Close files; what has not been synced is lost."""
        for file in self._files.values():
            file.close()

    def _finish(self, modality: str) -> None:
        chain, file = self._chains[modality], self._files.pop(modality)
        file.write(tar_end(chain.bytes))
        _flush(file)
        file.close()
        chain.number, chain.samples, chain.bytes = chain.number + 1, 0, 0

    def _path(self, modality: str, number: int) -> Path:
        return self._partial / f"{modality}-{number:06d}.tar"

    def _reopen(self, path: Path, size: int) -> IO[bytes]:
        if not path.exists() or path.stat().st_size < size:
            raise RecordError(f"{path} is shorter than noted, so this import cannot go on; delete {self._out}")
        os.truncate(path, size)
        return path.open("ab")


class _Chain:
    def __init__(self, number: int = 0, samples: int = 0, bytes: int = 0, published: int = 0) -> None:
        self.number, self.samples, self.bytes = number, samples, bytes
        """Of the shard that is written now: its number, what it holds, and where it ends."""
        self.published = published
        """Shards below this number have their names."""


def _flush(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())
