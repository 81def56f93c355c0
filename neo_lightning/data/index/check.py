"""Everything that a source leaves out, and why; on demand by decoding every image and frame.

The index reads headers alone, so that a picture cut in its middle shows up as a tombstone while training. Decoding
beforehand finds it at the price of a pass over all pixels.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from neo_lightning.data.facts import MediaError, MediaFacts, RetryError, ShardError
from neo_lightning.data.index.adapted import build_source
from neo_lightning.data.index.make import Progress, survey
from neo_lightning.data.index.source import ShardSource
from neo_lightning.data.manifest import SourceSpec
from neo_lightning.data.media.image import decode_image
from neo_lightning.data.media.video import decode_frames
from neo_lightning.data.store import Store
from neo_lightning.types import Media

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
    usable = index.samples - len(damaged)
    return CheckReport(samples=usable, left_out=left_out + damaged, refused=refused, unused=index.unused)


def check_own_source(spec: SourceSpec) -> CheckReport:
    """What a class of the user's own holds, and says that it leaves out.

    Raises:
        ManifestError: it cannot be built.
    """
    source = build_source(spec)
    return CheckReport(samples=len(source), left_out=list(getattr(source, "skipped", [])), refused={})


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
