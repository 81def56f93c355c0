"""What a stage does not train on -> groups by reason, with a few thumbnails each, found again in the shards.

Two kinds: samples that the index refused (their shard is read up to them once more), and samples that do not fit the
stage's context or are shown smaller for it (found in up to 64 parts of a source). Media that cannot be decoded say why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from neo_lightning.data.facts import RetryError, SampleError, ShardError, reason_kind
from neo_lightning.data.index import Source
from neo_lightning.data.index.scan import samples_of
from neo_lightning.data.index.tar import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from neo_lightning.data.manifest import load_manifest
from neo_lightning.data.media.image import decode_image, image_facts
from neo_lightning.data.media.video import decode_frames, video_facts
from neo_lightning.data.store import Store
from neo_lightning.data.text.lengths import ShardPartLengths
from neo_lightning.report.inspect.pictures import THUMBNAIL, thumbnail_uri
from neo_lightning.types import Media, Stage

SHARD_PARTS = 64
"""Of each source are searched for samples that do not fit the stage."""

EXAMPLES = 4
"""Of each reason."""

SHARDS = 16
"""At most so many are read once more, for thumbnails of what the index refused."""

_MEDIA = 3
"""Thumbnails of one sample."""


@dataclass(kw_only=True)
class Example:
    """One sample."""

    sample: str
    """`source/key`."""
    reason: str
    media: list[Media] = field(default_factory=list)

    def thumbnails(self) -> Iterator[tuple[str, str]]:
        """(address, note) of its first media; where one cannot be decoded, no address and why."""
        for medium in self.media[:_MEDIA]:
            try:
                yield _thumbnail(medium), medium.name
            except SampleError as error:
                yield "", f"{medium.name}: {error}"


@dataclass(kw_only=True)
class Group:
    """Samples with one reason."""

    kind: str
    count: int = 0
    examples: list[Example] = field(default_factory=list)


def find_left_out(
    manifest: str, sources: Mapping[str, Source], stage: Stage, lengths: ShardPartLengths, notes: Mapping[str, str]
) -> list[Group]:
    """Groups, largest first. `notes` holds what `lengths` told of each sample: `source/key` -> reason."""
    groups: dict[str, Group] = {}

    def add(sample: str, reason: str) -> Example | None:
        group = groups.setdefault(reason_kind(reason), Group(kind=reason_kind(reason)))
        group.count += 1
        if len(group.examples) == EXAMPLES:
            return None
        group.examples.append(Example(sample=sample, reason=reason))
        return group.examples[-1]

    refused: dict[tuple[str, str], dict[str, Example]] = {}  # (source, shard's name) -> key -> example
    for name, source in sources.items():
        for key, reason in source.skipped:
            example = add(f"{name}/{key}", reason)
            if example and (found := re.search(r" \[([^]]*)\]$", reason)):
                refused.setdefault((name, found[1]), {})[key] = example
        for shard_part in range(0, source.shard_parts, -(-source.shard_parts // SHARD_PARTS)):
            measures = lengths.measures(name, shard_part, stage)
            for sample_index in np.flatnonzero((measures.length == 0) | (measures.halvings > 0)).tolist():
                sample = f"{name}/{source.shard_part_facts(shard_part).key(sample_index)}"
                if example := add(sample, notes[sample]):
                    example.media = _media_of(source, shard_part, sample_index)
    for (name, shard), examples in list(refused.items())[:SHARDS]:
        _fill(manifest, name, shard, examples)
    return sorted(groups.values(), key=lambda group: -group.count)


def _media_of(source: Source, shard_part: int, sample_index: int) -> list[Media]:
    messages = source.read(shard_part, sample_index).messages
    return [part for message in messages for part in message.parts if isinstance(part, Media)]


def _fill(manifest: str, source: str, name: str, examples: dict[str, Example]) -> None:
    """Find samples' media in the source's shards of this name; one that is not delivered now has no thumbnails."""
    loaded = load_manifest(manifest)
    store, missing, spec = Store(loaded.store), dict(examples), loaded.source(source)
    for shard in spec.shards:
        if shard.rpartition("/")[2] != name or not missing:
            continue
        try:
            for sample in samples_of(shard, store, store.stat(shard), spec.ignore):
                if example := missing.pop(sample.key, None):
                    example.media = [
                        Media(kind=kind, data=member.data, name=member.name)
                        for member in sample.members
                        if member.regular and (kind := _KINDS.get(member.extension))
                    ]
                if not missing:
                    break
        except (ShardError, RetryError):
            continue


_KINDS: dict[str, Literal["image", "video"]] = {
    **dict.fromkeys(IMAGE_EXTENSIONS, "image"),
    **dict.fromkeys(VIDEO_EXTENSIONS, "video"),
}


def _thumbnail(medium: Media) -> str:
    """The picture, or the clip's middle frame.

    Raises:
        MediaError: it cannot be decoded.
    """
    facts = image_facts(medium.data) if medium.kind == "image" else video_facts(medium.data)
    scale = min(1.0, THUMBNAIL / max(facts.height, facts.width))
    size = max(1, round(facts.height * scale)), max(1, round(facts.width * scale))
    if facts.ticks is None:
        return thumbnail_uri(decode_image(medium.data, facts, size))
    return thumbnail_uri(decode_frames(medium.data, facts, [len(facts.ticks) // 2], size)[0])
