"""One shard -> its sidecar: every sample's facts in one pass over the bytes. Of a clip the first frame is decoded.

A shard's structure is checked to the last byte (`index.tar`); a sample that cannot be used is left out with its reason.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from neo_lightning.data.facts import RetryError, SampleError, SampleFacts, ShardError, costs_one_sample
from neo_lightning.data.files import decode_text, parse_json
from neo_lightning.data.index import sidecar, tar
from neo_lightning.data.index.sidecar import IndexDamaged, Summary, split_rows
from neo_lightning.data.index.table import Columns
from neo_lightning.data.media.image import image_facts
from neo_lightning.data.media.video import video_facts
from neo_lightning.data.store import Stamp, Store
from neo_lightning.data.text.conversation import parse_turns
from neo_lightning.data.text.unused import unused
from neo_lightning.types import MODALITIES

ACCEPTED = {
    "text": ("text",),
    "image": ("image",),
    "multi_image": ("multi_image", "image"),
    "video": ("video",),
}
"""What a source of each modality may hold; anything else in it is left out as a probable mistake."""


NAMES_KEPT = 64
"""Names of what records say without effect that are counted one by one in each shard."""


def index_shard(shard: str | Path, modality: str, store: Store | None = None, ignore: Sequence[str] = ()) -> Summary:
    """Index a shard of a source of some modality and write its sidecar; `ignore` are endings that are passed over.

    Raises:
        ShardError: it cannot be used.
        RetryError: it was not delivered, or it looks like an error page in a shard's place.
    """
    shard, store = str(shard), store or Store()
    stamp = store.stat(shard)
    table, summary = _scan(shard, modality, store, stamp, ignore)
    sidecar.write_sidecar(sidecar.sidecar_of(shard, modality, store.options.folder, ignore), table, summary)
    return summary


def indexed_rows(
    shard: str,
    modality: str,
    store: Store,
    summary: Summary,
    shard_part: int,
    columns: list[str],
    ignore: Sequence[str] = (),
) -> pa.Table:
    """Columns of a shard part; a sidecar that is gone or damaged is made again, and has to come out the same.

    Raises:
        ShardError: the shard is not the one that was indexed.
        RetryError: it was not delivered.
    """
    file = sidecar.sidecar_of(shard, modality, store.options.folder, ignore)
    try:
        return sidecar.read_rows(file, shard_part, columns, summary.digest)
    except (FileNotFoundError, IndexDamaged) as damage:
        warnings.warn(f"index of {shard}: {damage}; indexed again", stacklevel=2)
        if index_shard(shard, modality, store, ignore).digest != summary.digest:
            raise ShardError(f"shard {shard} was replaced after it was indexed; start a new run") from damage
        return sidecar.read_rows(file, shard_part, columns, summary.digest)


def members_digest(shard: str, store: Store, stamp: Stamp, ignore: Sequence[str] = ()) -> str:
    """What `Summary.members` would be: tells whether a shard with another date is another shard.

    Raises:
        ShardError, RetryError: see `index_shard`.
    """
    hasher = hashlib.sha256()
    for sample in samples_of(shard, store, stamp, ignore):
        _hash_members(hasher, sample)
    return hasher.hexdigest()


def samples_of(
    shard: str, store: Store, stamp: Stamp, ignore: Sequence[str] = (), unused: Counter[str] | None = None
) -> Iterator[tar.TarSample]:
    """The shard's samples as they lie in the tar, without the members that `tar.walk` passes over.

    Raises:
        ShardError, RetryError: see `index_shard`.
    """
    read = tar.Buffered(lambda offset, length: store.read(shard, offset, length, stamp), stamp.size)
    _check_start(shard, read(0, 512), stamp.size)
    return tar.walk(read, stamp.size, shard, ignore, unused)


def modality_of(shard: str | Path, store: Store | None = None) -> str:
    """The modality that a shard's first sample tells; text where there is none.

    Raises:
        ShardError, RetryError: see `index_shard`.
    """
    shard, store = str(shard), store or Store()
    first = next(samples_of(shard, store, store.stat(shard)), None)
    return _modality([kind for member in first.members if (kind := _kind(member.extension))] if first else [])


def _modality(kinds: list[str]) -> str:
    return "video" if "video" in kinds else ("text", "image", "multi_image")[min(len(kinds), 2)]


def _check_start(shard: str, head: bytes, size: int) -> None:
    if size == 0:
        raise RetryError(
            f"shard {shard}: zero bytes (an empty shard is a tar of two zero blocks); is it still written?"
        )
    if head.lstrip()[:1] in (b"<", b"{") and head[257:262] != b"ustar":
        raise RetryError(f"shard {shard}: {head[:40]!r}... is no tar; it looks like a server's error page")
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head[:6] == b"\xfd7zXZ\x00" or head[:4] == b"\x28\xb5\x2f\xfd":
        raise ShardError(f"shard {shard}: compressed; store a plain tar (media are compressed already)")


def _scan(shard: str, modality: str, store: Store, stamp: Stamp, ignore: Sequence[str]) -> tuple[pa.Table, Summary]:
    columns, without_effect = Columns(), Counter[str]()
    plan, members = hashlib.sha256(modality.encode()), hashlib.sha256()
    for sample in samples_of(shard, store, stamp, ignore, without_effect):
        crcs = _hash_members(members, sample)
        media = [member for member in sample.members if _kind(member.extension)]
        media_crcs = crcs[len(crcs) - len(media) :]
        try:
            with costs_one_sample():
                facts, names = sample_facts(sample, modality)
                content = columns.add(facts, media, media_crcs)
        except SampleError as error:
            columns.leave_out(sample.key, str(error).encode("utf-8", "backslashreplace").decode())
            plan.update(f"{sample.key}\0left out\0".encode())
            continue
        without_effect.update(names)
        shown = [
            (m.kind, m.width, m.height, m.duration, None if m.ticks is None else len(m.ticks)) for m in facts.media
        ]
        plan.update(f"{sample.key}\0{content}\0{shown}\0{media_crcs}\0".encode())
    table = columns.to_arrow()
    rows = split_rows(len(table))
    usable = table.column("reason").is_null().to_numpy()
    found = Counter(table.column("modality").to_numpy()[usable].tolist())
    starts = [sum(rows[:i]) for i in range(len(rows))]
    return table, Summary(
        shard=shard.rpartition("/")[2],
        size=stamp.size,
        tag=stamp.tag,
        rows=rows,
        shard_parts=tuple(int(usable[at : at + count].sum()) for at, count in zip(starts, rows, strict=True)),
        modalities={MODALITIES[number]: count for number, count in sorted(found.items())},
        media=sum(len(kinds) for kinds in table.column("kind").to_pylist()),
        unused=_names(without_effect),
        digest=plan.hexdigest(),
        members=members.hexdigest(),
    )


def _names(counts: Counter[str]) -> dict[str, int]:
    """The commonest names; keys can be as many as a record's author likes."""
    named = {name.encode("utf-8", "backslashreplace").decode(): count for name, count in counts.most_common(NAMES_KEPT)}
    rest = counts.total() - sum(named.values())
    return named | ({f"others than these {len(named)}": rest} if rest else {})


def _hash_members(hasher: Any, sample: tar.TarSample) -> list[int]:
    """CRC32 of each member's content."""
    crcs = [zlib.crc32(member.data) for member in sample.members]
    listed = [(m.name, m.offset, m.size, m.regular, crc) for m, crc in zip(sample.members, crcs, strict=True)]
    hasher.update(repr(listed).encode())
    return crcs


def sample_facts(sample: tar.TarSample, modality: str) -> tuple[SampleFacts, list[str]]:
    """What a sample's JSON, caption and media headers say, and names of what the JSON says without effect.

    Raises:
        SampleError: it cannot be used in a source of this modality.
    """
    tree: dict[str, Any] = {}
    caption: str | None = None
    media, kinds = [], []
    for member in sample.members:
        if not member.regular:
            raise SampleError(f"member {member.name!r} is a link or a device, not a file")
        kind = _kind(member.extension)
        if not kind:
            text = _text(member.data, member.name)
            if member.extension == "txt":
                caption = text.strip()
            else:
                tree = _json(text, member.name)
            continue
        kinds.append(kind)
        try:
            media.append(image_facts(member.data) if kind == "image" else video_facts(member.data))
        except SampleError as error:
            raise SampleError(f"{member.name!r}: {error}") from error
    turns = parse_turns(tree, caption, kinds, literal=modality == "text")
    own = _modality(kinds)
    if own not in ACCEPTED[modality]:
        raise SampleError(f"holds {own} data in a source of modality {modality}")
    meta = tree.get("meta") or {}
    if not isinstance(meta, dict):
        raise SampleError("`meta` must be an object")
    facts = SampleFacts(key=sample.key, modality=own, turns=tuple(turns), media=tuple(media), meta=meta)
    return facts, unused(tree, caption)


def _kind(extension: str) -> str:
    """image, video, or empty for text."""
    if extension in tar.TEXT_EXTENSIONS:
        return ""
    return "image" if extension in tar.IMAGE_EXTENSIONS else "video"


def _text(data: bytes, name: str) -> str:
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        raise SampleError(f"{name!r}: not UTF-8 at byte {error.start}") from error


def _json(text: str, name: str) -> dict[str, Any]:
    try:
        tree = parse_json(text)
    except (ValueError, RecursionError) as error:
        raise SampleError(f"{name!r}: not JSON: {error}") from error
    if not isinstance(tree, dict):
        raise SampleError(f"{name!r}: expected a JSON object, got {type(tree).__name__}")
    return tree
