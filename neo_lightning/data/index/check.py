"""Everything that a source leaves out, and why; on demand by decoding every image and frame.

The index reads headers alone, so that a picture cut in its middle shows up as a tombstone while training. Decoding
beforehand finds it at the price of a pass over all pixels.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from neo_lightning.data.facts import MediaError, MediaFacts, RetryError, SampleFacts, ShardError
from neo_lightning.data.index.adapted import UserSource
from neo_lightning.data.index.make import Progress, survey
from neo_lightning.data.index.source import ShardSource
from neo_lightning.data.media.image import decode_image
from neo_lightning.data.media.video import decode_frames
from neo_lightning.data.store import Store
from neo_lightning.types import MODALITIES, Media, Sample

_FRAMES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What one source holds."""

    samples: int
    """Usable."""
    left_out: list[tuple[str, str]]
    """(key, reason), which names the member and, in brackets at its end, the shard."""
    refused: dict[str, str]
    """Shard -> reason."""
    unused: dict[str, int] = field(default_factory=dict)
    """What usable samples say without effect, by name (see `text.unused`) -> in how many."""
    modalities: dict[str, int] = field(default_factory=dict)
    """Usable samples by modality."""
    read: int | None = None
    """So many samples were read, where that is only a part of them (a user's own class)."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"left_out": [{"key": key, "reason": reason} for key, reason in self.left_out]}


def check_source(
    shards: Sequence[str],
    modality: str,
    store: Store,
    progress: Progress | None = None,
    *,
    decode: bool = False,
    workers: int | None = None,
    ignore: Sequence[str] = (),
) -> CheckReport:
    """Index what is missing and collect what cannot be used; shards that are refused do not end it."""
    index, failures = survey(shards, modality, store, None, progress, workers, ignore)
    refused = {shard: str(error) for shard, error in failures.items()}
    if not index.shards:
        return CheckReport(samples=0, left_out=[], refused=refused)
    source = ShardSource("check", modality, index.shards, store=store, ignore=tuple(ignore))
    left_out, damaged = source.skipped, []
    if decode:
        for shard_part, (bad, refusal) in enumerate(_decode_all(source, workers)):
            damaged += bad
            if refusal:
                refused[source.shard_of(shard_part)] = refusal
    return CheckReport(
        samples=index.samples - len(damaged),
        left_out=left_out + damaged,
        refused=refused,
        unused=index.unused,
        modalities=index.modalities,
    )


_Found = tuple[list[tuple[str, str]], str]
"""(key, reason) of a shard part's damaged samples; and why the shard cannot be read further, or nothing."""

_source: ShardSource
"""What a pool's processes read from; set in them only."""


def _decode_all(source: ShardSource, workers: int | None) -> Iterator[_Found]:
    workers = min(source.shard_parts, os.cpu_count() or 1 if workers is None else workers)
    if workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        yield from (_decode(source, shard_part) for shard_part in range(source.shard_parts))
        return
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(source,)) as pool:
        yield from pool.map(_decode_in_pool, range(source.shard_parts))


def _begin(source: ShardSource) -> None:
    global _source
    _source = source


def _decode_in_pool(shard_part: int) -> _Found:
    return _decode(_source, shard_part)


def _decode(source: ShardSource, shard_part: int) -> _Found:
    bad: list[tuple[str, str]] = []
    shard = source.shard_of(shard_part).rpartition("/")[2]
    for sample_index in range(source.shard_part_size(shard_part)):
        try:
            facts, sample = source.facts(shard_part, sample_index), source.read(shard_part, sample_index)
        except (ShardError, RetryError) as error:
            return bad, str(error)
        media = [part for message in sample.messages for part in message.parts if isinstance(part, Media)]
        for medium, fact in zip(media, facts.media, strict=True):
            try:
                _decode_medium(medium, fact)
            except MediaError as error:
                bad.append((facts.key, f"{medium.name!r}: {error} [{shard}]"))
                break
    return bad, ""


def _decode_medium(medium: Media, facts: MediaFacts) -> None:
    if facts.ticks is None:
        decode_image(medium.data, facts)
        return
    for start in range(0, len(facts.ticks), _FRAMES_AT_ONCE):
        decode_frames(medium.data, facts, range(start, min(start + _FRAMES_AT_ONCE, len(facts.ticks))), (32, 32))


READ = 64
"""Samples of a user's own class that are read without `decode`."""


def check_class_source(source: UserSource, *, decode: bool = False) -> CheckReport:
    """Ask a user's own class for the facts of all its samples, and read some of them, or all of them and decode.

    Whatever the class raises is the reason why the sample counts as left out: in a training it would end the run.
    """
    total = len(source)
    read = range(0, total, 1 if decode else max(1, -(-total // READ)))
    left_out: list[tuple[str, str]] = []
    modalities: Counter[str] = Counter()
    for index in range(total):
        key = f"sample {index}"
        try:
            facts = source.facts(index)
            key = facts.key
            if index in read:
                _read(source.read(index), facts, decode=decode)
            modalities[facts.modality] += 1
        except Exception as error:  # anything: it is a user's program
            left_out.append((key, f"{type(error).__name__}: {error}"))
    counts = {modality: modalities[modality] for modality in MODALITIES if modality in modalities}
    return CheckReport(samples=modalities.total(), left_out=left_out, refused={}, modalities=counts, read=len(read))


def _read(sample: Sample, facts: SampleFacts, *, decode: bool) -> None:
    media = [part for message in sample.messages for part in message.parts if isinstance(part, Media)]
    if sample.key != facts.key or [medium.kind for medium in media] != [fact.kind for fact in facts.media]:
        raise ValueError(
            f"`read` gives {sample.key!r} with {len(media)} media, `facts` {facts.key!r} with {len(facts.media)}"
        )
    for medium, fact in zip(media, facts.media, strict=True):
        if decode:
            _decode_medium(medium, fact)
