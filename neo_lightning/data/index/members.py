"""Where the media of many samples lie in their shard, as columns: what reading looks at for each sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from neo_lightning.data.index.table import aligned, lists


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MembersTable:
    """Where the media of N samples lie in their shard."""

    splits: np.ndarray
    """[N + 1] int64: media of row r, as in FactsTable."""
    names: pa.StringArray
    offsets: np.ndarray
    """[M] int64: first byte of the content in the shard."""
    sizes: np.ndarray
    """[M] int64: bytes."""
    crcs: np.ndarray
    """[M] uint32: CRC32 of the content."""

    @classmethod
    def from_arrow(cls, table: pa.Table) -> MembersTable:
        """Columns of a table with the columns MEMBERS."""
        splits, offsets = lists(table, "offset")
        sizes, crcs = aligned(table, "size", splits), aligned(table, "crc", splits)
        names = table.column("name").combine_chunks().flatten()
        return cls(splits=splits, names=names, offsets=offsets, sizes=sizes, crcs=crcs)

    def of(self, sample_index: int) -> tuple[list[str], list[int], list[int], list[int]]:
        """Names, offsets, sizes and CRC32s of a sample's media."""
        own = slice(int(self.splits[sample_index]), int(self.splits[sample_index + 1]))
        return (
            self.names[own].to_pylist(),
            self.offsets[own].tolist(),
            self.sizes[own].tolist(),
            self.crcs[own].tolist(),
        )
