"""Indexed samples as the plan and the reader see them: facts by shard part, media by (shard part, sample_index).

    manifest --open_source--> Source
        shard_part_facts(shard_part) -> FactsTable      read(shard_part, sample_index) -> Sample

A shard part is a whole shard, or an equal part of a large one; it holds its usable samples in file order. Nothing is
kept per sample: columns are read from the sidecar when a shard part is asked for, and a few parts stay in memory.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from neo_lightning.data.facts import MediaFacts, SampleFacts, ShardError, Turn
from neo_lightning.data.index import sidecar
from neo_lightning.data.index.adapted import AdaptedSource, build_source
from neo_lightning.data.index.make import Index, Progress, ensure_index
from neo_lightning.data.index.members import MembersTable
from neo_lightning.data.index.recent import SAMPLES_KEPT, SHARD_PARTS_KEPT, Recent
from neo_lightning.data.index.scan import indexed_rows
from neo_lightning.data.index.sidecar import IndexDamaged
from neo_lightning.data.index.table import CONTENT, FACTS, MEMBERS, FactsTable, parse_content, usable
from neo_lightning.data.index.tokens import Counting, write_tokens
from neo_lightning.data.manifest import Manifest, ManifestError, load_manifest
from neo_lightning.data.store import Store
from neo_lightning.data.text.answers import ANSWER_TOKENS, DEFAULT_ANSWER_TOKENS, mark_answers
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import MODALITIES, Media, Message, Sample


class Source(Protocol):
    """Indexed samples of one source."""

    name: str
    modality: str
    """One of types.MODALITIES."""
    digest: str
    """Of everything that the plan depends on, but for tokenizer and budgets."""
    shard_parts: int
    """Parts that the plan draws as a whole."""

    answer_tokens: tuple[str, ...]
    """Groups of `text.answers.ANSWER_TOKENS` that its answers may use: one id each."""

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of the samples that are left out; read anew each time."""

    def shard_part_size(self, shard_part: int) -> int:
        """Usable samples in a shard part; known without opening it."""

    def shard_part_facts(self, shard_part: int) -> FactsTable:
        """Facts of a shard part's usable samples, as columns."""

    def facts(self, shard_part: int, sample_index: int) -> SampleFacts:
        """Facts of one sample."""

    def read(self, shard_part: int, sample_index: int) -> Sample:
        """One sample with its encoded media, in the order of the facts.

        Raises:
            ShardError: the shard is not the one that was indexed.
            RetryError: the store did not deliver.
        """


class ShardSource:
    """Samples of one source's shards, in shard and file order; indexes what is missing when it is made."""

    def __init__(
        self,
        name: str,
        modality: str,
        shards: tuple[str | Path, ...],
        *,
        store: Store | None = None,
        counting: Counting | None = None,
        progress: Progress | None = None,
        answer_tokens: tuple[str, ...] = DEFAULT_ANSWER_TOKENS,
        ignore: tuple[str, ...] = (),
    ) -> None:
        """
        Args:
            name, modality: as in the manifest.
            shards: paths or URLs.
            store: how they are read.
            counting: of the tokens of every turn (`FactsTable.turn_tokens`); None for none.
            progress: told how the index gets on.
            answer_tokens, ignore: as in the manifest.

        Raises:
            ShardError, RetryError: see `ensure_index`.
        """
        self.name, self.modality = name, modality
        self.answer_tokens, self._ignore, self._store = answer_tokens, ignore, store or Store()
        self._counting = counting
        self._index: Index = ensure_index(
            [str(s) for s in shards], modality, self._store, counting, progress, ignore=ignore
        )
        self._places = [
            (shard, group)
            for shard, summary in enumerate(self._index.summaries)
            for group, size in enumerate(summary.shard_parts)
            if size
        ]
        self.shard_parts = len(self._places)
        self.digest = hashlib.sha256(f"{modality}\0{self._index.digest}".encode()).hexdigest()
        self._facts, self._contents, self._members = (
            Recent(SHARD_PARTS_KEPT),
            Recent(SHARD_PARTS_KEPT),
            Recent(SHARD_PARTS_KEPT),
        )
        self._samples = Recent(SAMPLES_KEPT)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of the samples that are left out; read anew each time."""
        found = []
        for shard, summary in enumerate(self._index.summaries):
            for group, size in enumerate(summary.rows):
                if size == summary.shard_parts[group]:
                    continue
                table = self._table(shard, group, ["key", "reason"])
                pairs = zip(table.column("key").to_pylist(), table.column("reason").to_pylist(), strict=True)
                found += [(key, f"{reason} [{summary.shard}]") for key, reason in pairs if reason is not None]
        return found

    @property
    def unused(self) -> dict[str, int]:
        """What usable samples say without effect (see `text.unused`) -> in how many."""
        return self._index.unused

    def shard_of(self, shard_part: int) -> str:
        """The shard that a shard part belongs to."""
        return self._index.shards[self._places[shard_part][0]]

    def shard_part_size(self, shard_part: int) -> int:
        """Usable samples in a shard part."""
        shard, group = self._places[shard_part]
        return self._index.summaries[shard].shard_parts[group]

    def shard_part_facts(self, shard_part: int) -> FactsTable:
        """Facts of a shard part's usable samples, as columns."""
        return self._facts.get(shard_part, lambda: self._read_facts(shard_part))

    def facts(self, shard_part: int, sample_index: int) -> SampleFacts:
        """Facts of one sample."""
        return self._samples.get((shard_part, sample_index), lambda: self._sample(shard_part, sample_index))

    def _sample(self, shard_part: int, sample_index: int) -> SampleFacts:
        table = self.shard_part_facts(shard_part)
        contents = self._contents.get(shard_part, lambda: self._rows(shard_part, CONTENT))
        media = table.media(sample_index)
        try:
            turns, meta = parse_content(contents.column("content")[sample_index].as_py(), len(media))
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(shard_part, error) from error
        modality, turns = MODALITIES[table.modality[sample_index]], mark_answers(turns, self.answer_tokens)
        return SampleFacts(key=table.key(sample_index), modality=modality, turns=turns, media=media, meta=meta)

    def read(self, shard_part: int, sample_index: int) -> Sample:
        """One sample with its encoded media; every medium's checksum is compared.

        Raises:
            ShardError, RetryError: see `Source.read`.
        """
        facts = self.facts(shard_part, sample_index)
        return make_sample(facts, self._read_media(shard_part, sample_index, facts.media) if facts.media else [])

    def _read_media(self, shard_part: int, sample_index: int, media: tuple[MediaFacts, ...]) -> list[Media]:
        place = self._places[shard_part][0]
        shard, stamp = self._index.shards[place], self._index.summaries[place].stamp
        table = self._members.get(shard_part, lambda: MembersTable.from_arrow(self._rows(shard_part, MEMBERS)))
        names, offsets, sizes, crcs = table.of(sample_index)
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

    def _read_facts(self, shard_part: int) -> FactsTable:
        table = self._rows(shard_part, FACTS)
        try:
            facts = FactsTable.from_arrow(table)
        except ValueError as error:
            raise self._damaged(shard_part, error) from error
        if self._counting is None:
            return facts
        shard, group = self._places[shard_part]
        summary, file = self._index.summaries[shard], self._index.files[shard]
        counts = sidecar.tokens_of(file, self._counting.digest, summary.digest)
        try:
            return FactsTable.from_arrow(table, sidecar.read_tokens(counts, group))
        except (FileNotFoundError, IndexDamaged, ValueError) as damage:
            warnings.warn(f"{counts}: {damage}; counted again", stacklevel=2)
            write_tokens(file, summary, self._counting)
            return FactsTable.from_arrow(table, sidecar.read_tokens(counts, group))

    def _damaged(self, shard_part: int, error: Exception) -> ShardError:
        """A file whose checksums are right and whose content is not was not written by this program."""
        return ShardError(
            f"index file {self._index.files[self._places[shard_part][0]]}: {error}; delete it to make it again"
        )

    def _rows(self, shard_part: int, columns: list[str]) -> pa.Table:
        """Columns of a shard part's usable samples."""
        shard, group = self._places[shard_part]
        wanted = dict.fromkeys(["reason", *columns])
        table = usable(self._table(shard, group, list(wanted))).select(columns)
        return table.combine_chunks()

    def _table(self, shard: int, group: int, columns: list[str]) -> pa.Table:
        """Columns of a row group; a sidecar that is gone or damaged is made again, and has to come out the same."""
        name, summary = self._index.shards[shard], self._index.summaries[shard]
        return indexed_rows(name, self.modality, self._store, summary, group, columns, self._ignore)


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
            built, or `counting_of` refuses the tokenizer.
    """
    manifest = manifest if isinstance(manifest, Manifest) else load_manifest(manifest)
    spec = manifest.source(name)
    answer_tokens = DEFAULT_ANSWER_TOKENS if spec.answer_tokens is None else spec.answer_tokens
    counting = None if tokenizer is None else counting_of(manifest, name, tokenizer)
    if spec.class_path:
        return AdaptedSource(name, build_source(spec), tokenizer, answer_tokens)
    source = ShardSource(
        name,
        spec.modality,
        spec.shards,
        store=Store(manifest.store, manifest.answers),
        counting=counting,
        progress=progress,
        answer_tokens=answer_tokens,
        ignore=spec.ignore,
    )
    if progress is not None and source.unused:
        progress.note(f"source {name!r}: what samples say without effect: {counted(source.unused)}")
    return source


def counted(unused: Mapping[str, int], most: int = 12) -> str:
    """`Source.unused` as a list for people."""
    shown = [f"{name} ({count:,} samples)" for name, count in list(unused.items())[:most]]
    return ", ".join(shown + [f"and {len(unused) - most} more"] * (len(unused) > most))


def counting_of(manifest: Manifest, name: str, tokenizer: Tokenizer) -> Counting:
    """How the tokens of a source are counted.

    Raises:
        ManifestError: the tokenizer lacks tokens that `answer_tokens` asks for; of the default it may lack some.
    """
    groups = manifest.source(name).answer_tokens
    if groups is None:
        return Counting(tokenizer=tokenizer)
    if missing := [token for group in groups for token in ANSWER_TOKENS[group] if token not in tokenizer.marks]:
        known = [group for group, pair in ANSWER_TOKENS.items() if all(token in tokenizer.marks for token in pair)]
        raise ManifestError(
            f"{manifest.path}, source {name!r}: answer_tokens asks for {', '.join(missing)}, which the tokenizer lacks "
            f"(it knows {', '.join(known) or 'none of them'}); name others, or take a tokenizer that has them"
        )
    return Counting(tokenizer=tokenizer, answer_tokens=groups)


def sample_ids(source: Source) -> Iterator[tuple[int, int]]:
    """(shard part, sample_index) of all samples, in order."""
    return (
        (shard_part, sample_index)
        for shard_part in range(source.shard_parts)
        for sample_index in range(source.shard_part_size(shard_part))
    )


def iterate_samples(source: Source) -> Iterator[Sample]:
    """All samples of a source in order, media encoded as they lie in the shard."""
    return (source.read(shard_part, sample_index) for shard_part, sample_index in sample_ids(source))
