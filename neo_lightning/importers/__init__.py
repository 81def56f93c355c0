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
from neo_lightning.importers.formats import FORMATS
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.run import Import, ImportReport
from neo_lightning.importers.task import Job

__all__ = ["FORMATS", "ImportReport", "Reading", "RecordError", "import_dataset"]


def import_dataset(
    format: str,
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    media: str | Path | None = None,
    reading: Reading | None = None,
    strict: bool = False,
    samples_per_shard: int = 4096,
    bytes_per_shard: int = 1 << 30,
    workers: int | None = None,
    progress: bool = False,
) -> ImportReport:
    """Turn records into shards, or go on with that.

    Args:
        format: a key of FORMATS; `auto` looks at the input.
        inputs: files of records, or folders of them; one folder for the format `folder`.
        out: folder to write to; it must hold no shards, or a part of the same import.
        media: folder in which the records' file names are looked up; `folder` takes its input.
        reading: the user's own names of columns and roles, and what to take of preference data.
        strict: refuse instead of leaving records out, or keys that nothing uses.
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
    if media is None and format == "folder":
        media = found[0]
    if media is not None and not Path(media).is_dir():
        raise RecordError(f"media folder {media}: no such folder")
    folder = None if media is None else Path(media).resolve()
    job = Job(format=format, media=folder, reading=reading, partial=out / "partial")
    arguments = {
        "format": format,
        "inputs": [str(path) for path in found],
        "input digest": listing.digest,
        "media": None if folder is None else str(folder),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in asdict(reading).items()},
        "strict": strict,
        "samples per shard": samples_per_shard,
        "bytes per shard": bytes_per_shard,
    }
    processes = os.cpu_count() or 1 if workers is None else workers
    with Import(out, job, arguments) as running:
        report = running.run(found, listing.total if progress else None, processes)
    _index(report, processes, progress)
    return report


def _index(report: ImportReport, workers: int, progress: bool) -> None:
    """Read the shards back: their index is there when training starts, and what was written can be read."""
    manifest = load_manifest(report.manifest)
    for modality in report.samples:
        with ProgressBar(modality) if progress else nullcontext() as bar:
            ensure_index(manifest.source(modality).shards, modality, Store(), progress=bar, workers=workers)
