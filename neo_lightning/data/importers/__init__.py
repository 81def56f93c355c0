"""A JSON file and a folder of media -> shards by modality, and a manifest that names them.

    OUT/image-000000.tar  OUT/text-000000.tar  ...  OUT/import.log  OUT/manifest.yaml

Media are copied byte for byte. JSON Lines are read record by record; a JSON array is read as a whole. A record that
cannot be imported is left out and listed with its line or number in `import.log` (`strict` makes the first one an
error). Addresses are resolved inside the media folder and nowhere else. A shard gets its name when it is complete, and
the manifest is written last.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from neo_lightning.data.conversation import parse_turns, places
from neo_lightning.data.facts import SampleError
from neo_lightning.data.image import image_facts
from neo_lightning.data.importers import llava, messages
from neo_lightning.data.importers.record import Record, RecordError
from neo_lightning.data.importers.writer import ModalityWriter
from neo_lightning.data.index.tar import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS
from neo_lightning.data.video import video_facts
from neo_lightning.types import MODALITIES

FORMATS: dict[str, Callable[[dict[str, Any]], Record]] = {
    "llava": llava.read_record,
    "messages": messages.read_record,
}


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did."""

    samples: dict[str, int]
    """Written, per modality."""
    left_out: list[tuple[str, str]]
    """(line or record, reason)."""
    manifest: Path

    def __str__(self) -> str:
        written = ", ".join(f"{count} {modality}" for modality, count in self.samples.items())
        lines = [f"{self.manifest}: {written}"]
        if self.left_out:
            lines.append(f"{len(self.left_out)} records left out, listed in {self.manifest.parent / 'import.log'}:")
            lines += [f"  {where}: {reason}" for where, reason in self.left_out[:5]]
        return "\n".join(lines)


def import_dataset(
    format: str,
    json_file: str | Path,
    media_dir: str | Path,
    out: str | Path,
    *,
    strict: bool = False,
    samples_per_shard: int = 5000,
    bytes_per_shard: int = 1 << 30,
) -> ImportReport:
    """Turn records into shards.

    Args:
        format: a key of FORMATS.
        json_file: a JSON array, or JSON Lines.
        media_dir: folder in which the records' addresses are looked up.
        out: folder to write to; it must not hold shards yet.
        strict: refuse instead of leaving records out.
        samples_per_shard, bytes_per_shard: a shard ends when it reaches either.

    Raises:
        RecordError: unknown format, unreadable file, shards in `out`, nothing to import, or (strict) a bad record.
    """
    if format not in FORMATS:
        raise RecordError(f"unknown format {format!r} (known: {', '.join(FORMATS)})")
    json_file, out, folder = Path(json_file), Path(out), Path(media_dir).resolve()
    if not folder.is_dir():
        raise RecordError(f"media folder {media_dir}: no such folder")
    if any(out.glob("*.tar")):
        raise RecordError(f"{out}: holds shards already; name another folder")
    out.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    left_out: list[tuple[str, str]] = []
    with ModalityWriter(out, samples_per_shard, bytes_per_shard) as writer, (out / "import.log").open("w") as log:
        for number, (where, item) in enumerate(_records(json_file)):
            try:
                modality, members = _members(item, FORMATS[format], folder)
            except (RecordError, SampleError) as error:
                if strict:
                    raise RecordError(f"{json_file}, {where}: {error}") from error
                left_out.append((where, str(error)))
                log.write(json.dumps({"record": where, "reason": str(error)}) + "\n")
                continue
            writer.write(modality, f"{number:09d}", members)
            counts[modality] += 1
    if not counts:
        reason = f"; the first: {left_out[0][0]}: {left_out[0][1]}" if left_out else ""
        raise RecordError(f"{json_file}: no record could be imported{reason}")
    samples = {modality: counts[modality] for modality in MODALITIES if counts[modality]}
    return ImportReport(samples=samples, left_out=left_out, manifest=_write_manifest(out, samples))


def _write_manifest(out: Path, samples: dict[str, int]) -> Path:
    lines = ["# Written by `neo-lightning data import`.", "sources:"]
    for modality, count in samples.items():
        lines += [f"  {modality}:  # {count} samples", f"    modality: {modality}", f'    shards: "{modality}-*.tar"']
    path = out / "manifest.yaml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    """("line 3" or "record 3", the record or the error that it is)."""
    try:
        with path.open("rb") as file:
            head = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    except OSError as error:
        raise RecordError(f"{path}: {error.strerror or error}") from error
    if head == b"[":
        try:
            items = json.loads(path.read_bytes().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise RecordError(f"{path}: {error}") from error
        yield from ((f"record {i}", item) for i, item in enumerate(items))
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield f"line {number}", json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError) as error:
                yield f"line {number}", RecordError(f"not JSON in UTF-8: {error}")


def _members(item: Any, read: Callable[[dict[str, Any]], Record], folder: Path) -> tuple[str, dict[str, bytes]]:
    """Modality and the sample's files by extension. Everything that training would refuse is refused here."""
    if isinstance(item, RecordError):
        raise item
    if not isinstance(item, dict):
        raise RecordError(f"expected a JSON object, got {type(item).__name__}")
    record = read(item)
    shown = places(record.tree)
    if not shown and len(record.images) + len(record.videos) == 1:
        shown = ["image"] if record.images else ["video"]
    named = Counter({"image": len(record.images), "video": len(record.videos)})
    for kind in ("image", "video"):
        if shown.count(kind) != named[kind]:
            raise RecordError(f"text has {shown.count(kind)} places for {kind}s, the record names {named[kind]}")
    queues = {"image": iter(record.images), "video": iter(record.videos)}
    files = [(kind, *_read_medium(kind, next(queues[kind]), folder)) for kind in shown]
    parse_turns(record.tree, None, shown, literal=False)
    members = {"json": json.dumps({**record.tree, "meta": record.meta}).encode("ascii")}
    for i, (_, extension, data) in enumerate(files):
        members[extension if len(files) == 1 else f"{i}.{extension}"] = data
    if "video" in shown:
        return "video", members
    return ("text", "image", "multi_image")[min(2, len(shown))], members


def _read_medium(kind: str, address: str, folder: Path) -> tuple[str, bytes]:
    """Extension and content of a medium inside the folder, its header checked."""
    if "://" in address.removeprefix("file://") or address.startswith("data:"):
        raise RecordError(f"{address[:80]!r} is no path in the media folder; nothing is downloaded")
    try:
        path = (folder / address.removeprefix("file://")).resolve()
        if not path.is_relative_to(folder):
            raise RecordError(f"{address!r} lies outside the media folder")
        extension = path.suffix.lower().removeprefix(".")
        known = IMAGE_EXTENSIONS if kind == "image" else VIDEO_EXTENSIONS
        if extension not in known:
            raise RecordError(f"{address!r}: extension {extension!r} is no {kind} (known: {', '.join(known)})")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"{address!r}: {getattr(error, 'strerror', None) or error}") from error
    try:
        image_facts(data) if kind == "image" else video_facts(data)
    except SampleError as error:
        raise RecordError(f"{address!r}: {error}") from error
    return extension, data
