"""Shards -> facts of every sample, once at start-up: what may be planned, and what is left out and why.

One pass reads each shard from end to end: the tar is checked, JSON and text are parsed, and the headers of images and
the packets of clips are read; nothing is decoded. The result lies in memory and is the same in every process; a
stored index can take its place behind `Source` without any change beyond this file.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from neo_lightning.data.conversation import parse_turns
from neo_lightning.data.facts import SampleError, SampleFacts
from neo_lightning.data.image import image_facts
from neo_lightning.data.manifest import Manifest, ManifestError, SourceSpec, load_manifest
from neo_lightning.data.shards import IMAGE_EXTENSIONS, SampleRef, ShardReader, scan_shard
from neo_lightning.data.video import video_facts
from neo_lightning.types import MODALITIES, Media, Message, Sample

ACCEPTED = {
    "text": ("text",),
    "image": ("image",),
    "multi_image": ("multi_image", "image"),
    "video": ("video",),
}
"""What a source of each modality may hold; anything else in it is left out as a probable mistake."""

PARALLEL_FROM_BYTES = 16 << 20
"""Smaller sets are indexed in this process."""


@runtime_checkable
class Source(Protocol):
    """Indexed samples. A user's own class with these four can stand in a manifest by `class_path`.

    A source may also have `skipped: list[tuple[str, str]]` (key, reason) and `digest: str`.
    """

    @property
    def modality(self) -> str:
        """One of types.MODALITIES."""

    def __len__(self) -> int:
        """Number of usable samples."""

    def facts(self, index: int) -> SampleFacts:
        """Header facts; cheap, called once for each sample at start-up."""

    def read(self, index: int) -> Sample:
        """The sample with its encoded media, in the order of the facts."""


class ShardSource:
    """Samples of one source's shards, in shard and file order."""

    def __init__(self, name: str, modality: str, shards: tuple[Path, ...], *, progress: Progress | None = None) -> None:
        self.name, self.modality = name, modality
        self.skipped: list[tuple[str, str]] = []
        self._refs: list[SampleRef] = []
        self._facts: list[SampleFacts] = []
        self._reader = ShardReader()
        owner: dict[str, str] = {}
        hasher = hashlib.sha256(modality.encode())
        for shard, (refs, facts, skipped, digest) in zip(shards, _index_all(shards, modality, progress), strict=True):
            for key in [f.key for f in facts] + [key for key, _ in skipped]:
                if key in owner:
                    raise ManifestError(f"source {name!r}: key {key!r} lies in both {owner[key]} and {shard}")
                owner[key] = str(shard)
            self._refs += refs
            self._facts += facts
            self.skipped += [(key, f"{reason} [{shard.name}]") for key, reason in skipped]
            hasher.update(digest.encode())
        self.digest = hasher.hexdigest()

    def __len__(self) -> int:
        return len(self._facts)

    def facts(self, index: int) -> SampleFacts:
        """Header facts of a sample."""
        return self._facts[index]

    def read(self, index: int) -> Sample:
        """The sample with its encoded media.

        Raises:
            ShardError: the shard is gone or shorter than it was.
        """
        ref, facts = self._refs[index], self._facts[index]
        media = []
        for member in ref.members:
            if (kind := _kind(member.extension)) is not None:
                media.append(Media(kind=kind, data=self._reader.read(ref.shard, member), name=member.name))
        return make_sample(facts, media)


def make_sample(facts: SampleFacts, media: list[Media]) -> Sample:
    """Put encoded media into the places that the facts give them."""
    messages = tuple(
        Message(role=t.role, parts=tuple(p if isinstance(p, str) else media[p] for p in t.parts)) for t in facts.turns
    )
    return Sample(key=facts.key, modality=facts.modality, messages=messages, meta=facts.meta)


def open_source(manifest: Manifest | str | Path, name: str, *, progress: Progress | None = None) -> Source:
    """Index one source of a manifest.

    Raises:
        ManifestError, ShardError: see `load_manifest` and `scan_shard`; or the user's class cannot be built.
    """
    manifest = manifest if isinstance(manifest, Manifest) else load_manifest(manifest)
    spec = manifest.source(name)
    if spec.class_path:
        return _user_source(spec)
    return ShardSource(name, spec.modality, spec.shards, progress=progress)


def iterate_samples(source: Source) -> Iterator[Sample]:
    """All samples of a source in order, media encoded as they lie in the shard."""
    for index in range(len(source)):
        yield source.read(index)


def _user_source(spec: SourceSpec) -> Source:
    module, _, name = spec.class_path.rpartition(".")
    where = f"source {spec.name!r}: class_path {spec.class_path!r}"
    try:
        built = getattr(importlib.import_module(module), name)(**spec.init_args)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ManifestError(f"{where}: {error}") from error
    if not isinstance(built, Source):
        raise ManifestError(f"{where}: needs `modality`, `__len__`, `facts(index)` and `read(index)`")
    if built.modality not in MODALITIES:
        raise ManifestError(f"{where}: modality {built.modality!r} is not one of {', '.join(MODALITIES)}")
    return built


Progress = Callable[[int], None]
"""Told the number of shards that have been indexed so far."""

_Indexed = tuple[list[SampleRef], list[SampleFacts], list[tuple[str, str]], str]


def _index_all(shards: tuple[Path, ...], modality: str, progress: Progress | None) -> Iterator[_Indexed]:
    total = sum(shard.stat().st_size for shard in shards if shard.exists())
    workers = min(len(shards), os.cpu_count() or 1)
    if total < PARALLEL_FROM_BYTES or workers < 2 or "fork" not in multiprocessing.get_all_start_methods():
        results: Iterator[_Indexed] = (index_shard(shard, modality) for shard in shards)
        yield from _reported(results, progress)
        return
    # fork: a script without a main guard still works, and the children need nothing but Pillow and PyAV
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork")) as pool:
        yield from _reported(pool.map(index_shard, shards, [modality] * len(shards)), progress)


def _reported(results: Iterator[_Indexed], progress: Progress | None) -> Iterator[_Indexed]:
    for done, result in enumerate(results, start=1):
        yield result
        if progress is not None:
            progress(done)


def index_shard(path: Path, modality: str) -> _Indexed:
    """References, facts, (key, reason) of samples left out, and a digest of everything that planning depends on."""
    reader = ShardReader()
    refs, facts, skipped = [], [], []
    hasher = hashlib.sha256()
    for ref in scan_shard(path):
        try:
            fact = _sample_facts(ref, reader, modality, hasher)
        except SampleError as error:
            skipped.append((ref.key, str(error)))
        else:
            refs.append(ref)
            facts.append(fact)
            hasher.update(repr([(m.offset, m.size) for m in ref.members]).encode())
        hasher.update(f"{ref.key}\0{len(facts)}\0".encode(errors="surrogateescape"))
    return refs, facts, skipped, hasher.hexdigest()


def _sample_facts(ref: SampleRef, reader: ShardReader, modality: str, hasher: Any) -> SampleFacts:
    tree: dict[str, Any] = {}
    caption: str | None = None
    media, kinds = [], []
    for member in ref.members:
        if not member.regular:
            raise SampleError(f"member {member.name!r} is a link or a device, not a file")
        data = reader.read(ref.shard, member)
        kind = _kind(member.extension)
        if kind is None:
            hasher.update(data)
            text = _text(data, member.name)
            if member.extension == "txt":
                caption = text
            else:
                tree = _json(text, member.name)
            continue
        kinds.append(kind)
        try:
            media.append(image_facts(data) if kind == "image" else video_facts(data))
        except SampleError as error:
            raise SampleError(f"{member.name!r}: {error}") from error
    turns = parse_turns(tree, caption, kinds, literal=modality == "text")
    own = "video" if "video" in kinds else "text" if not kinds else "image" if len(kinds) == 1 else "multi_image"
    if own not in ACCEPTED[modality]:
        raise SampleError(f"holds {own} data in a source of modality {modality}")
    hasher.update(repr([(m.width, m.height, m.duration) for m in media]).encode())
    meta = tree.get("meta") or {}
    if not isinstance(meta, dict):
        raise SampleError("`meta` must be an object")
    return SampleFacts(key=ref.key, modality=own, turns=tuple(turns), media=tuple(media), meta=meta)


def _kind(extension: str) -> Any:
    if extension in ("json", "txt"):
        return None
    return "image" if extension in IMAGE_EXTENSIONS else "video"


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(f"{name!r}: not UTF-8 at byte {error.start}") from error


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{name!r}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise SampleError(f"{name!r}: expected a JSON object, got {type(tree).__name__}")
    return tree
