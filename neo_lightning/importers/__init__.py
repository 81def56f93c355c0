"""Anybody's records and media -> shards by modality, and a manifest that names them.

    OUT/image-000000.tar  OUT/text-000000.tar  ...  OUT/import.log  OUT/import.json  OUT/manifest.yaml

The input is a stream: memory does not grow with it. Processes read and check the media, one process writes, in the
order of the input; so shards do not depend on the number of processes. `import.json` says how far the import has got;
killed at any moment, the same call goes on and ends with the same bytes. A shard gets its name when it is complete, the
manifest is written last, and then the shards are indexed.

Media are copied byte for byte. A record that cannot be imported is left out and listed with its file and line in
`import.log` (`strict` makes the first one an error), and so is the first record with a key that nothing uses; such keys
are counted by name. The trade-off: bytes are written twice, to a short-lived file by
the process that checks them and to the shard; so no sample passes through a pipe or waits in memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from neo_lightning.data.index.make import ensure_index
from neo_lightning.data.index.progress import ProgressBar
from neo_lightning.data.manifest import load_manifest
from neo_lightning.data.store import Store
from neo_lightning.importers.auto import format_of
from neo_lightning.importers.columns import Reading
from neo_lightning.importers.fields import FieldMap, digest, field_map
from neo_lightning.importers.formats import FORMATS
from neo_lightning.importers.media_folder import MediaFolder
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.report import ImportReport
from neo_lightning.importers.run import Import
from neo_lightning.importers.task import Job
from neo_lightning.importers.webdataset import first_members

__all__ = ["FORMATS", "ImportReport", "Reading", "RecordError", "import_dataset"]


def import_dataset(
    format: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    media: str | Path | None = None,
    reading: Reading | None = None,
    fields: Sequence[str] = (),
    function: str = "",
    classes: str | Path | None = None,
    hold_out: float = 0.0,
    again: bool = False,
    strict: bool = False,
    samples_per_shard: int = 4096,
    bytes_per_shard: int = 1 << 30,
    workers: int | None = None,
    progress: bool = False,
) -> ImportReport:
    """Turn records into shards, or go on with that.

    Args:
        format: a key of FORMATS; `auto` looks at the input.
        inputs: files of records, tars, or folders of them; one folder for the format `folder`.
        out: folder to write to; it must hold no shards, or a part of the same import.
        media: folder in which the records' file names are looked up; by default the one that the inputs lie in.
        reading: the user's own names of columns and roles, and what to take of preference data.
        fields: of the format `webdataset`: what its members are, `NAME=MEMBER` each (see `fields.py`).
        function: dotted name of a user's function that makes a record of a WebDataset sample, in place of `fields`.
        classes: text file with a name a line, for the numbers in members called `cls`.
        hold_out: share of the samples (below 1), or about so many of them (from 1 on), that become sources
            `held_out_MODALITY` of their own, by a hash of a record's `id`, else of its media, else of its text.
        again: replace an import that `out` holds.
        strict: refuse instead of leaving records out, or parts of them unused.
        samples_per_shard, bytes_per_shard: a shard ends when it reaches either.
        workers: processes; default one a core. A script that uses them needs the guard `if __name__ == "__main__"`.
        progress: show a bar.

    Raises:
        RecordError: unknown format, unreadable input, foreign shards in `out`, an import with other arguments in
            `out`, nothing to import, or (strict) a bad record.
        ShardError, RetryError: the shards cannot be read back.
    """
    if format not in FORMATS:
        raise RecordError(f"unknown format {format!r} (known: {', '.join(FORMATS)})")
    if min(samples_per_shard, bytes_per_shard) < 1:
        raise RecordError("a shard must hold at least one sample and one byte")
    found, out = [Path(path) for path in inputs], Path(out)
    reading = reading or Reading()
    if format == "auto":
        format = format_of(found)
    listing = FORMATS[format][0].listing(found)
    if media is None and len(folders := {path if path.is_dir() else path.parent for path in found}) == 1:
        media = folders.pop()
    if media is not None and not Path(media).is_dir():
        raise RecordError(f"media folder {media}: no such folder")
    folder = None if media is None else MediaFolder(root=Path(media).resolve())
    mapped = field_map(fields, function, classes)
    if (format == "webdataset") != (mapped != FieldMap()):
        raise RecordError(_wanted_map(found) if format == "webdataset" else f"--fields and --function: not of {format}")
    share = hold_out if hold_out < 1 else _share(hold_out, sum(task.count for task in FORMATS[format][0].split(found)))
    job = Job(format=format, media=folder, reading=reading, partial=out / "partial", fields=mapped, hold_out=share)
    arguments = {
        "format": format,
        "inputs": [str(path) for path in found],
        "input digest": listing.digest,
        "media": None if folder is None else str(folder.root),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(reading).items()},
        "fields": digest(mapped) if mapped != FieldMap() else None,
        "hold out": hold_out or None,
        "strict": strict,
        "samples per shard": samples_per_shard,
        "bytes per shard": bytes_per_shard,
    }
    processes = os.cpu_count() or 1 if workers is None else workers
    with Import(out, job, arguments, again) as running:
        report = running.run(found, listing.total if progress else None, processes)
    _index(report, processes, progress)
    return report


def _share(wanted: float, records: int) -> float:
    """
    Raises:
        RecordError: more are to be held out than there are.
    """
    if wanted >= records:
        raise RecordError(f"--hold-out {wanted:.0f}: the input has {records} records, and some must stay to be learned")
    return wanted / records


def _wanted_map(inputs: list[Path]) -> str:
    members = first_members(inputs)
    return (
        f"--format webdataset needs --fields or --function: the first sample has {', '.join(members)}; for example "
        '--fields image=jpg text=txt, or --fields image=jpg answer=json.answer question="What is this?"'
    )


def _index(report: ImportReport, workers: int, progress: bool) -> None:
    """Read the shards back: their index is there when training starts, and what was written can be read."""
    manifest = load_manifest(report.manifest)
    for name in report.samples:
        source = manifest.source(name)
        with ProgressBar(name) if progress else nullcontext() as bar:
            ensure_index(source.shards, source.modality, Store(), progress=bar, workers=workers)
