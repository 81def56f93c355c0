"""Makes what is missing of a source's index, in parallel, once for all processes that ask.

    shards --stat--> which sidecars are of this version? --index the others--> summaries, and a root file of them

The root file lets the next start ask nothing but each shard's size and date, of all shards at once. A process that
finds work to do takes a lock in the index folder first; others wait, and then find nothing left to do: so of many ranks
one indexes, on each machine or shared folder, without their knowing of each other. Sidecars appear one by one, so a
killed index goes on where it stopped.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from neo_lightning import stopping
from neo_lightning.data.facts import RetryError, ShardError
from neo_lightning.data.files import locked
from neo_lightning.data.index import sidecar
from neo_lightning.data.index.root import Index, read_root, root_file, write_root
from neo_lightning.data.index.scan import index_shard, indexed_rows, members_digest
from neo_lightning.data.index.sidecar import IndexDamaged, Summary
from neo_lightning.data.index.table import SCHEMA
from neo_lightning.data.index.tokens import Counting, write_tokens
from neo_lightning.data.store import Stamp, Store

PARALLEL_FROM_BYTES = 16 << 20
"""Smaller sets are indexed in this process."""


class Progress:
    """Told what an index does; this one keeps quiet."""

    def waiting(self) -> None:
        """Another process is indexing these shards."""

    def begin(self, shards: int, total: int) -> None:
        """So many of all shards have to be indexed."""

    def advance(self) -> None:
        """One of them is done."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


Failure = ShardError | RetryError


def ensure_index(
    shards: Sequence[str],
    modality: str,
    store: Store,
    counting: Counting | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    ignore: Sequence[str] = (),
) -> Index:
    """Index what is new or changed among the shards of one source; count tokens where it is said how.

    Args:
        shards: paths or URLs.
        modality: of the source.
        store: how shards are read.
        counting: the token counts that have to be there; None for none.
        progress: told how it gets on.
        workers: processes; default one a core. Small sets take one.
        ignore: endings of members that are passed over, as in the manifest.

    Raises:
        ShardError: shards cannot be used (the others are indexed), or a key is in two of them.
        RetryError: a shard was not delivered.
    """
    index, failures = survey(shards, modality, store, counting, progress, workers, ignore)
    if failures:
        kind = RetryError if all(isinstance(e, RetryError) for e in failures.values()) else ShardError
        more = f"\n(and {len(failures) - 5} more of {len(shards)} shards)" if len(failures) > 5 else ""
        raise kind("\n".join(str(error) for error in list(failures.values())[:5]) + more)
    return index


def survey(
    shards: Sequence[str],
    modality: str,
    store: Store,
    counting: Counting | None = None,
    progress: Progress | None = None,
    workers: int | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Index, dict[str, Failure]]:
    """As `ensure_index`, but goes on: the index of the shards that can be used, and why the others cannot."""
    progress = progress or Progress()
    files = [sidecar.sidecar_of(shard, modality, store.options.folder, ignore) for shard in shards]
    failures: dict[str, Failure] = {}
    stamps = _stamps(shards, store, failures)
    root = root_file(files, modality)
    known = read_root(root, stamps, files, counting)
    if any(summary is None for summary in known):
        with sidecar.writing_into(root.parent), locked(root.with_suffix(".lock"), progress.waiting):
            known = read_root(root, stamps, files, counting)
            missing = [
                (shard, file)
                for shard, file, summary in zip(shards, files, known, strict=True)
                if summary is None and shard not in failures
            ]
            progress.begin(len(missing), len(shards))
            made: dict[str, Summary] = {}
            context = (modality, ignore, store, counting)
            size = sum(stamp.size for stamp, summary in zip(stamps, known, strict=True) if summary is None)
            for (shard, _), (outcome, notes) in zip(missing, _run(missing, size, context, workers), strict=True):
                if isinstance(outcome, Summary):
                    made[shard] = outcome
                else:
                    failures[shard] = outcome
                for note in notes:
                    progress.note(note)
                progress.advance()
            known = [summary or made.get(shard) for shard, summary in zip(shards, known, strict=True)]
            if not failures:
                failures |= _repeated_keys(_index(shards, files, known), modality, store, ignore)
            if not failures:
                write_root(root, modality, _index(shards, files, known))
    kept = [i for i, shard in enumerate(shards) if shard not in failures]
    return _index([shards[i] for i in kept], [files[i] for i in kept], [known[i] for i in kept]), failures


def _index(shards: Sequence[str], files: Sequence[Path], known: Sequence[Summary | None]) -> Index:
    summaries = tuple(summary for summary in known if summary is not None)
    return Index(shards=tuple(shards), files=tuple(files), summaries=summaries)


def _stamps(shards: Sequence[str], store: Store, failures: dict[str, Failure]) -> list[Stamp]:
    """Of all shards, asked together; none of a file for those that the store did not deliver."""
    asked = store.stamps(shards)
    failures.update({shard: found for shard, found in zip(shards, asked, strict=True) if isinstance(found, RetryError)})
    return [Stamp(-1, "") if isinstance(found, RetryError) else found for found in asked]


_Job = tuple[str, Path]
_Done = tuple[Summary | Failure, list[str]]
"""Summary, or why there is none; and what a person should know."""

_Context = tuple[str, Sequence[str], Store, Counting | None]
"""Modality and `ignore` of the source, how shards are read, how tokens are counted."""

_context: _Context
"""What all jobs of a pool share; set in its processes only, so that nothing large is sent with each job."""


def _run(jobs: Sequence[_Job], total: int, context: _Context, workers: int | None) -> Iterator[_Done]:
    """Outcomes in the order of the jobs, on `total` bytes."""
    workers = min(len(jobs), os.cpu_count() or 1 if workers is None else workers)
    if workers < 2 or total < PARALLEL_FROM_BYTES or "fork" not in multiprocessing.get_all_start_methods():
        yield from (_work(shard, file, *context) for shard, file in jobs)
        return
    # fork: a script without a main guard still works, and the children need nothing that a fork breaks
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("fork"), initializer=_begin, initargs=context
    ) as pool:
        try:
            yield from pool.map(_in_pool, jobs)
        except (stopping.Stopped, GeneratorExit):
            for process in multiprocessing.active_children():  # the pool would wait for what they have begun
                process.terminate()
            raise


def _begin(*context: Any) -> None:
    global _context
    _context = context  # type: ignore[assignment]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))  # what is half written is removed


def _in_pool(job: _Job) -> _Done:
    shard, file = job
    return _work(shard, file, *_context)


def _work(
    shard: str, file: Path, modality: str, ignore: Sequence[str], store: Store, counting: Counting | None
) -> _Done:
    """Bring one shard's index up to date."""
    notes: list[str] = []
    try:
        summary = _existing(shard, file, store, ignore, notes) or index_shard(shard, modality, store, ignore)
        if counting is not None and not sidecar.tokens_of(file, counting.digest, summary.digest).exists():
            try:
                write_tokens(file, summary, counting)
            except IndexDamaged as damage:
                notes.append(f"{damage}: indexed again")
                summary = index_shard(shard, modality, store, ignore)
                write_tokens(file, summary, counting)
    except (ShardError, RetryError) as error:
        return error, notes
    return summary, notes


def _existing(shard: str, file: Path, store: Store, ignore: Sequence[str], notes: list[str]) -> Summary | None:
    """The sidecar that is there, if it is of this shard: by size and date, else by content."""
    try:
        summary = sidecar.read_summary(file)
    except FileNotFoundError:
        return None
    except IndexDamaged as damage:
        notes.append(f"{damage}: indexed again")
        return None
    stamp = store.stat(shard)
    if summary.stamp == stamp:
        return summary
    if summary.size != stamp.size or members_digest(shard, store, stamp, ignore) != summary.members:
        return None
    return replace(summary, tag=stamp.tag)


def _repeated_keys(index: Index, modality: str, store: Store, ignore: Sequence[str]) -> dict[str, Failure]:
    """A key that lies in two shards: one of them is a copy, or logs would name the wrong sample."""

    def column(i: int, name: str) -> pa.ChunkedArray:
        shard, summary = index.shards[i], index.summaries[i]
        shard_parts = [
            indexed_rows(shard, modality, store, summary, part, [name], ignore).column(0)
            for part in range(len(summary.rows))
        ]
        return pa.chunked_array(
            [chunk for shard_part in shard_parts for chunk in shard_part.chunks], SCHEMA.field(name).type
        )

    hashes = [column(i, "key_hash").to_numpy() for i in range(len(index.shards))]
    ordered = np.sort(np.concatenate(hashes))
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    if not repeated.size:
        return {}
    first, second = [i for i, own in enumerate(hashes) if (own == repeated[0]).any()][:2]
    row = int(np.flatnonzero(hashes[first] == repeated[0])[0])
    key, owners = column(first, "key")[row].as_py(), (index.shards[first], index.shards[second])
    return {owners[1]: ShardError(f"key {key!r} lies in both {owners[0]} and {owners[1]}; keys are unique in a source")}
