"""A shard's index on disk: one Parquet file with a row per sample, one more per tokenizer with the turns' tokens.

    shards/a.tar   shards/.neo_index/a.tar.image.parquet   shards/.neo_index/a.tar.image.tokens-0f3c...parquet

A row group is a shard part, which the plan draws as a whole and which is read at once. Samples that are
left out stay in the file with their reason. The footer's metadata (`Summary`) tell which version of which shard was
indexed; pages carry checksums; files appear whole or not at all. A file that cannot be read is an `IndexDamaged`: it is
made again, as nothing in it exists that the shard does not hold.

Remote shards, and local ones in a folder that cannot be written, have theirs in the cache folder.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from neo_lightning.data.facts import ShardError
from neo_lightning.data.files import replacing
from neo_lightning.data.index.table import SCHEMA
from neo_lightning.data.store import Stamp, is_remote

VERSION = 3
"""Of facts and layout: a sidecar of another version is made again."""

SHARD_PART_SAMPLES = 4096
"""A shard with more samples is several shard parts of equal size."""

FOLDER = ".neo_index"
_KEY = b"neo_index"


class IndexDamaged(Exception):
    """An index file that cannot be used; never the user's concern, as it is made again."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is known of an indexed shard without opening its columns."""

    shard: str
    """File name, without its folder."""
    size: int
    """Bytes of the shard."""
    tag: str
    """Its version, see store.Stamp."""
    rows: tuple[int, ...]
    """Samples in each shard part, those left out too."""
    shard_parts: tuple[int, ...]
    """Usable samples in each shard part."""
    modalities: Mapping[str, int]
    """Usable samples by modality."""
    media: int
    """Images and clips of the usable samples."""
    unused: Mapping[str, int]
    """What the usable samples say without effect (see `text.unused`) -> in how many."""
    digest: str
    """Of everything that planning depends on: keys, content, media facts, and every media member's checksum."""
    members: str
    """Digest of all members' names, places and checksums: the shard's content, whatever its date."""
    version: int = VERSION

    @property
    def left_out(self) -> int:
        """Samples that cannot be used."""
        return sum(self.rows) - sum(self.shard_parts)

    @property
    def stamp(self) -> Stamp:
        """The shard's version."""
        return Stamp(self.size, self.tag)


def make_summary(fields: Mapping[str, Any]) -> Summary:
    """A summary from its JSON.

    Raises:
        ValueError, TypeError, KeyError: not one.
    """
    summary = Summary(**{**fields, "rows": tuple(fields["rows"]), "shard_parts": tuple(fields["shard_parts"])})
    numbers = [summary.size, summary.media, *summary.rows, *summary.shard_parts, *dict(summary.modalities).values()]
    numbers += dict(summary.unused).values()
    texts = [summary.shard, summary.tag, summary.digest, summary.members]
    if not all(type(n) is int and n >= 0 for n in numbers) or not all(isinstance(text, str) for text in texts):
        raise ValueError("not a shard's summary")
    return summary


def index_folder(shard: str, cache: Path, name: str) -> Path:
    """Folder of a shard's index files: beside it, or in the cache; made where it is missing.

    One beside it that cannot be written is used where it has `name`: somebody has indexed what others only read.

    Raises:
        ShardError: it cannot be made.
    """
    if not is_remote(shard):
        beside = Path(shard).parent / FOLDER
        if beside.is_dir():
            if os.access(beside, os.W_OK) or (beside / name).is_file():
                return beside
        else:
            try:
                beside.mkdir(exist_ok=True)
            except OSError:
                pass
            else:
                return beside
    where = shard.rpartition("/")[0] if is_remote(shard) else str(Path(shard).resolve().parent)
    folder = cache / "index" / hashlib.sha256(where.encode()).hexdigest()[:16]
    with writing_into(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def writing_into(folder: Path) -> Iterator[None]:
    """Turn what forbids it into a `ShardError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise ShardError(
            f"the index cannot be written into {folder} ({error.strerror}): make that folder writable, or let its "
            "owner run `neo-lightning data index MANIFEST`. (Where none can be made beside the shards, it goes into "
            "the manifest's `store: {cache: FOLDER}`, or $NEO_CACHE.)"
        ) from error


def sidecar_of(shard: str, modality: str, cache: Path, ignore: Sequence[str] = ()) -> Path:
    """The shard's sidecar. It depends on what its source says: the modality decides what is left out, `ignore` which
    members are there at all."""
    passed_over = f".without-{hashlib.sha256(json.dumps(sorted(ignore)).encode()).hexdigest()[:8]}" if ignore else ""
    name = f"{shard.rpartition('/')[2]}.{modality}{passed_over}.parquet"
    return index_folder(shard, cache, name) / name


def tokens_of(sidecar: Path, counting_digest: str, index_digest: str) -> Path:
    """The file with a sidecar's token counts, counted in one way (see `tokens.Counting`)."""
    name = hashlib.sha256(f"{counting_digest}\0{index_digest}".encode()).hexdigest()[:16]
    return sidecar.with_name(f"{sidecar.name.removesuffix('.parquet')}.tokens-{name}.parquet")


def split_rows(rows: int) -> tuple[int, ...]:
    """Rows of each shard part of a shard."""
    parts = -(-rows // SHARD_PART_SAMPLES)
    ends = [rows * part // parts for part in range(parts + 1)] if parts else []
    return tuple(stop - start for start, stop in pairwise(ends))


def write_table(file: Path, table: pa.Table, rows: Sequence[int], metadata: str) -> None:
    """Write a table with a row group for each number of rows, in one piece."""
    schema = table.schema.with_metadata({_KEY: metadata.encode()})
    with (
        replacing(file) as copy,
        pq.ParquetWriter(
            copy, schema, compression="zstd", use_dictionary=False, write_page_checksum=True, write_statistics=False
        ) as writer,
    ):
        start = 0
        for count in rows:
            writer.write_table(table.slice(start, count), row_group_size=max(1, count))
            start += count


def write_sidecar(file: Path, table: pa.Table, summary: Summary) -> None:
    """Write a shard's sidecar; token counts of an earlier version go."""
    assert table.schema == SCHEMA
    for stale in file.parent.glob(f"{_escaped(file.name.removesuffix('.parquet'))}.tokens-*.parquet"):
        stale.unlink(missing_ok=True)
    write_table(file, table, summary.rows, json.dumps(asdict(summary)))


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def read_summary(file: Path) -> Summary:
    """The footer of a sidecar.

    Raises:
        FileNotFoundError: there is none.
        IndexDamaged: it cannot be read, or is of another version.
    """
    return _summary(_open(file), file)


def read_rows(file: Path, shard_part: int, columns: Sequence[str], digest: str) -> pa.Table:
    """Columns of one shard part, left-out samples included.

    Raises:
        FileNotFoundError: there is no sidecar.
        IndexDamaged: it cannot be read, or is not the one with this digest.
    """
    parquet = _open(file)
    if _summary(parquet, file).digest != digest:
        raise IndexDamaged(f"{file}: of another version of the shard")
    return _read(parquet, file, shard_part, columns)


def read_tokens(file: Path, shard_part: int) -> pa.Table:
    """Token counts of one shard part's usable samples: the column `tokens`, a list per sample with a number per turn.

    Raises:
        FileNotFoundError, IndexDamaged: see `read_rows`.
    """
    return _read(_open(file), file, shard_part, ["tokens"])


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(pa.BufferReader(file.read_bytes()), page_checksum_verification=True)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IndexDamaged(f"{file}: {error}") from error


def _read(parquet: pq.ParquetFile, file: Path, shard_part: int, columns: Sequence[str]) -> pa.Table:
    try:
        table = parquet.read_row_group(shard_part, columns=list(columns), use_threads=False)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError, IndexError) as error:
        raise IndexDamaged(f"{file}: {error}") from error
    if table.column_names != list(columns) or any(
        table.schema.field(name).type != SCHEMA.field(name).type for name in columns if name in SCHEMA.names
    ):
        raise IndexDamaged(f"{file}: columns {table.column_names}")
    return table


def _summary(parquet: pq.ParquetFile, file: Path) -> Summary:
    try:
        summary = make_summary(json.loads((parquet.schema_arrow.metadata or {})[_KEY]))
        groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise IndexDamaged(f"{file}: {error}") from error
    if summary.version != VERSION:
        raise IndexDamaged(f"{file}: of version {summary.version}, this program writes {VERSION}")
    if groups != list(summary.rows) or len(summary.shard_parts) != len(groups):
        raise IndexDamaged(f"{file}: {groups} rows where {list(summary.rows)} were written")
    return summary
