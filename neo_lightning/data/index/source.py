"""Indexed samples as the plan and the reader see them: facts by unit, media by (unit, row).

    manifest --open_source--> Source      unit_facts(unit) -> FactsTable      read(unit, row) -> Sample

A unit is a whole shard, or an equal part of a large one; its rows are its usable samples in file order. Nothing is kept
per sample: columns are read from the sidecar when a unit is asked for, and a few units stay in memory.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import pyarrow as pa

from neo_lightning.data.facts import MediaFacts, SampleFacts, ShardError, Turn
from neo_lightning.data.index import sidecar
from neo_lightning.data.index.make import Index, Progress, ensure_index
from neo_lightning.data.index.scan import index_shard
from neo_lightning.data.index.sidecar import IndexDamaged
from neo_lightning.data.index.table import CONTENT, FACTS, MEMBERS, FactsTable, parse_content, usable
from neo_lightning.data.index.tokens import count_tokens, write_tokens
from neo_lightning.data.manifest import Manifest, ManifestError, SourceSpec, load_manifest
from neo_lightning.data.store import Store
from neo_lightning.data.tokenizer import Tokenizer
from neo_lightning.types import MODALITIES, Media, Message, Sample

UNITS_KEPT = 32
"""Units whose columns stay in memory, in each process."""

T = TypeVar("T")


class Source(Protocol):
    """Indexed samples of one source."""

    name: str
    modality: str
    """One of types.MODALITIES."""
    digest: str
    """Of everything that the plan depends on, but for tokenizer and budgets."""
    units: int
    """Parts that the plan draws as a whole."""

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of the samples that are left out; read anew each time."""

    def unit_size(self, unit: int) -> int:
        """Usable samples in a unit; known without opening it."""

    def unit_facts(self, unit: int) -> FactsTable:
        """Facts of a unit's usable samples, as columns."""

    def facts(self, unit: int, row: int) -> SampleFacts:
        """Facts of one sample."""

    def read(self, unit: int, row: int) -> Sample:
        """One sample with its encoded media, in the order of the facts.

        Raises:
            ShardError: the shard is not the one that was indexed.
            RetryError: the store did not deliver.
        """


@runtime_checkable
class UserSource(Protocol):
    """What a user's own class, named in a manifest by `class_path`, has to offer; it may also have a `digest: str`."""

    @property
    def modality(self) -> str:
        """One of types.MODALITIES."""

    def __len__(self) -> int:
        """Number of usable samples."""

    def facts(self, index: int) -> SampleFacts:
        """Header facts; cheap."""

    def read(self, index: int) -> Sample:
        """The sample with its encoded media, in the order of the facts."""


class _Recent:
    """The last few values made by a function of a key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def __getstate__(self) -> int:
        return self._most

    def __setstate__(self, most: int) -> None:
        self.__init__(most)  # type: ignore[misc]


class ShardSource:
    """Samples of one source's shards, in shard and file order; indexes what is missing when it is made."""

    def __init__(
        self,
        name: str,
        modality: str,
        shards: tuple[str | Path, ...],
        *,
        store: Store | None = None,
        tokenizer: Tokenizer | None = None,
        progress: Progress | None = None,
    ) -> None:
        """
        Args:
            name, modality: as in the manifest.
            shards: paths or URLs.
            store: how they are read.
            tokenizer: counts the tokens of every turn (`FactsTable.turn_tokens`).
            progress: told how the index gets on.

        Raises:
            ShardError, RetryError: see `ensure_index`.
        """
        self.name, self.modality = name, modality
        self._store, self._tokenizer = store or Store(), tokenizer
        self._index: Index = ensure_index([str(s) for s in shards], modality, self._store, tokenizer, progress)
        self._places = [
            (shard, group)
            for shard, summary in enumerate(self._index.summaries)
            for group, size in enumerate(summary.units)
            if size
        ]
        self.units = len(self._places)
        self.digest = hashlib.sha256(f"{modality}\0{self._index.digest}".encode()).hexdigest()
        self._facts, self._contents, self._members = _Recent(UNITS_KEPT), _Recent(UNITS_KEPT), _Recent(UNITS_KEPT)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of the samples that are left out; read anew each time."""
        found = []
        for shard, summary in enumerate(self._index.summaries):
            for group, size in enumerate(summary.rows):
                if size == summary.units[group]:
                    continue
                table = self._table(shard, group, ["key", "reason"])
                pairs = zip(table.column("key").to_pylist(), table.column("reason").to_pylist(), strict=True)
                found += [(key, f"{reason} [{summary.shard}]") for key, reason in pairs if reason is not None]
        return found

    def unit_size(self, unit: int) -> int:
        """Usable samples in a unit."""
        shard, group = self._places[unit]
        return self._index.summaries[shard].units[group]

    def unit_facts(self, unit: int) -> FactsTable:
        """Facts of a unit's usable samples, as columns."""
        return self._facts.get(unit, lambda: self._read_facts(unit))

    def facts(self, unit: int, row: int) -> SampleFacts:
        """Facts of one sample."""
        table = self.unit_facts(unit)
        contents = self._contents.get(unit, lambda: self._rows(unit, CONTENT))
        media = table.media(row)
        turns, meta = parse_content(contents.column("content")[row].as_py(), len(media))
        modality = MODALITIES[table.modality[row]]
        return SampleFacts(key=table.key(row), modality=modality, turns=turns, media=media, meta=meta)

    def read(self, unit: int, row: int) -> Sample:
        """One sample with its encoded media; every medium's checksum is compared.

        Raises:
            ShardError, RetryError: see `Source.read`.
        """
        facts = self.facts(unit, row)
        return make_sample(facts, self._read_media(unit, row, facts.media) if facts.media else [])

    def _read_media(self, unit: int, row: int, media: tuple[MediaFacts, ...]) -> list[Media]:
        place = self._places[unit][0]
        shard, stamp = self._index.shards[place], self._index.summaries[place].stamp
        table = self._members.get(unit, lambda: self._rows(unit, MEMBERS))
        names, offsets, sizes, crcs = (table.column(name)[row].as_py() for name in MEMBERS)
        start, stop = min(offsets), max(o + s for o, s in zip(offsets, sizes, strict=True))
        for attempt in range(2):
            data = self._store.read(shard, start, stop - start, stamp)  # a key's members lie together
            parts = [data[o - start : o - start + s] for o, s in zip(offsets, sizes, strict=True)]
            if [zlib.crc32(part) for part in parts] == crcs:
                return [
                    Media(kind=fact.kind, data=part, name=name)
                    for fact, part, name in zip(media, parts, names, strict=True)
                ]
            if attempt == 0:  # a fetched copy can be damaged too
                self._store.refetch(shard, stamp)
        raise ShardError(
            f"shard {shard}: the bytes of {names} are not those that were indexed (CRC32 differs): the shard was "
            "replaced or is damaged; put the old one back, or start a new run"
        )

    def _read_facts(self, unit: int) -> FactsTable:
        table = self._rows(unit, FACTS)
        if self._tokenizer is None:
            return FactsTable.from_arrow(table)
        shard, group = self._places[unit]
        summary, file = self._index.summaries[shard], self._index.files[shard]
        counts = sidecar.tokens_of(file, self._tokenizer.digest, summary.digest)
        try:
            return FactsTable.from_arrow(table, sidecar.read_tokens(counts, group))
        except (FileNotFoundError, IndexDamaged, ValueError) as damage:
            warnings.warn(f"{counts}: {damage}; counted again", stacklevel=2)
            write_tokens(file, summary, self._tokenizer)
            return FactsTable.from_arrow(table, sidecar.read_tokens(counts, group))

    def _rows(self, unit: int, columns: list[str]) -> pa.Table:
        """Columns of a unit's usable samples."""
        shard, group = self._places[unit]
        wanted = dict.fromkeys(["reason", *columns])
        table = usable(self._table(shard, group, list(wanted))).select(columns)
        return table.combine_chunks()

    def _table(self, shard: int, group: int, columns: list[str]) -> pa.Table:
        """Columns of a row group; a sidecar that is gone or damaged is made again, and has to come out the same."""
        file, summary = self._index.files[shard], self._index.summaries[shard]
        try:
            return sidecar.read_rows(file, group, columns, summary.digest)
        except (FileNotFoundError, IndexDamaged) as damage:
            name = self._index.shards[shard]
            warnings.warn(f"index of {name}: {damage}; indexed again", stacklevel=2)
            if index_shard(name, self.modality, self._store).digest != summary.digest:
                raise ShardError(f"shard {name} was replaced after it was indexed; start a new run") from damage
            return sidecar.read_rows(file, group, columns, summary.digest)


class AdaptedSource:
    """A user's own class as a `Source`: units of equal size over its indices."""

    def __init__(self, name: str, source: UserSource, tokenizer: Tokenizer | None = None) -> None:
        self.name, self.modality, self._source, self._tokenizer = name, source.modality, source, tokenizer
        self._starts = [0]
        for rows in sidecar.split_rows(len(source)):
            self._starts.append(self._starts[-1] + rows)
        self.units = len(self._starts) - 1
        self._facts = _Recent(UNITS_KEPT)
        known = getattr(source, "digest", None)
        self.digest = known if isinstance(known, str) else self._hash()

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """What the class itself says that it leaves out."""
        return list(getattr(self._source, "skipped", []))

    def unit_size(self, unit: int) -> int:
        """Samples in a unit."""
        return self._starts[unit + 1] - self._starts[unit]

    def unit_facts(self, unit: int) -> FactsTable:
        """Facts of a unit as columns."""
        return self._facts.get(unit, lambda: self._read_facts(unit))

    def facts(self, unit: int, row: int) -> SampleFacts:
        """Facts of one sample."""
        return self._source.facts(self._starts[unit] + row)

    def read(self, unit: int, row: int) -> Sample:
        """One sample."""
        return self._source.read(self._starts[unit] + row)

    def _samples(self, unit: int) -> list[SampleFacts]:
        return [self._source.facts(index) for index in range(self._starts[unit], self._starts[unit + 1])]

    def _read_facts(self, unit: int) -> FactsTable:
        samples = self._samples(unit)
        counts = None if self._tokenizer is None else count_tokens([s.turns for s in samples], self._tokenizer)
        return FactsTable.from_samples(samples, counts)

    def _hash(self) -> str:
        hasher = hashlib.sha256(self.modality.encode())
        for unit in range(self.units):
            for facts in self._samples(unit):
                media = [(m.kind, m.width, m.height, m.duration) for m in facts.media]
                turns = [(turn.role, turn.parts) for turn in facts.turns]
                hasher.update(repr((facts.key, facts.modality, media, turns)).encode(errors="surrogateescape"))
        return hasher.hexdigest()


def make_sample(facts: SampleFacts, media: list[Media]) -> Sample:
    """Put encoded media into the places that the facts give them."""

    def parts(turn: Turn) -> tuple[str | Media, ...]:
        return tuple(part if isinstance(part, str) else media[part] for part in turn.parts)

    messages = tuple(Message(role=turn.role, parts=parts(turn)) for turn in facts.turns)
    return Sample(key=facts.key, modality=facts.modality, messages=messages, meta=facts.meta)


def open_source(
    manifest: Manifest | str | Path,
    name: str,
    *,
    tokenizer: Tokenizer | None = None,
    progress: Progress | None = None,
) -> Source:
    """One source of a manifest; indexes what is missing.

    Raises:
        ManifestError, ShardError, RetryError: see `load_manifest` and `ensure_index`; or the user's class cannot be
            built.
    """
    manifest = manifest if isinstance(manifest, Manifest) else load_manifest(manifest)
    spec = manifest.source(name)
    if spec.class_path:
        return AdaptedSource(name, _build(spec), tokenizer)
    store = Store(manifest.store)
    return ShardSource(name, spec.modality, spec.shards, store=store, tokenizer=tokenizer, progress=progress)


def sample_ids(source: Source) -> Iterator[tuple[int, int]]:
    """(unit, row) of all samples, in order."""
    return ((unit, row) for unit in range(source.units) for row in range(source.unit_size(unit)))


def iterate_samples(source: Source) -> Iterator[Sample]:
    """All samples of a source in order, media encoded as they lie in the shard."""
    return (source.read(unit, row) for unit, row in sample_ids(source))


def _build(spec: SourceSpec) -> UserSource:
    module, _, name = spec.class_path.rpartition(".")
    where = f"source {spec.name!r}: class_path {spec.class_path!r}"
    try:
        built = getattr(importlib.import_module(module), name)(**spec.init_args)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {error}") from error
    if not isinstance(built, UserSource):
        raise ManifestError(f"{where}: needs `modality`, `__len__`, `facts(index)` and `read(index)`")
    if built.modality not in MODALITIES:
        raise ManifestError(f"{where}: modality {built.modality!r} is not one of {', '.join(MODALITIES)}")
    return built
