"""Data as the field has them, where they lie -> rows. Nothing is converted, downloaded or executed.

open_rows     a file or folder: .tsv .csv .jsonl .parquet, or shards (.tar)
open_source   a source of a manifest: held-out conversations
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ...data.index import ShardSource
from ...data.index import open_source as open_manifest_source
from ...data.index.scan import modality_of
from ...data.manifest import load_manifest
from .conversations import ConversationRows
from .records import JsonRows, ParquetRows
from .row import Chain, Row, Rows, Unread
from .tables import TableRows

READERS: dict[str, Callable[[Path, Path], Rows]] = {
    ".tsv": TableRows,
    ".csv": TableRows,
    ".jsonl": JsonRows,
    ".parquet": ParquetRows,
    ".tar": lambda path, media: ConversationRows(ShardSource(path.stem, modality_of(str(path)), (path,))),
}
"""Ending -> reader of a file, given the folder that its media lie in."""


def open_rows(data: Path, names: Sequence[str] = (), media: Path | None = None) -> Rows:
    """The rows of a benchmark.

    Args:
        data: a file, or a folder that holds files of these names, or nothing but one benchmark's.
        names: of the benchmark's files, without endings; the first that is there counts. Parts (`NAME-00000-of-00002`)
            belong together, and so do names joined by a plus.
        media: folder that names of pictures and clips start at; the data's own folder.

    Raises:
        ValueError: there are no such files; says what was looked for and what is there.
    """
    if data.is_file():
        return _open(data, media or data.parent)
    if not data.is_dir():
        raise ValueError(f"{data}: no such file or folder")
    there = sorted(path for path in data.iterdir() if path.suffix.lower() in READERS)
    files = _chosen(data, there, names)
    if not files:
        found = ", ".join(path.name for path in there[:8]) or "none of those formats"
        wanted = " or ".join(names) or "one benchmark's files"
        raise ValueError(f"{data}: no {wanted} ({' '.join(READERS)}); there: {found}. Name the file itself with --data")
    parts = [_open(path, media or data) for path in files]
    return parts[0] if len(parts) == 1 else Chain(parts)


def _chosen(data: Path, there: Sequence[Path], names: Sequence[str]) -> list[Path]:
    for name in names:
        parts = {part: _parts(there, part) for part in name.split("+")}
        if missing := [part for part, files in parts.items() if not files]:
            if len(missing) < len(parts):
                raise ValueError(
                    f"{data}: no {missing[0]}, which belongs to it; to score a part name its file with --data"
                )
            continue
        return [path for files in parts.values() for path in files]
    # a folder as Hugging Face has it: parts of one split and nothing else
    return list(there) if there and len({_stem(path) for path in there}) == 1 else []


def _parts(there: Sequence[Path], name: str) -> list[Path]:
    """The file of this name, else its parts."""
    whole = [path for path in there if path.stem == name]
    return whole[:1] or [path for path in there if _stem(path) == name]


def _stem(path: Path) -> str:
    """A file's name without its ending and without the number of its part, as in NAME-00000-of-00002."""
    return re.sub(r"-\d{3,}(?:-of-\d+)?$", "", path.stem)


def _open(path: Path, media: Path) -> Rows:
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown format; known: {', '.join(READERS)}, and a manifest with --source")
    return reader(path, media)


def open_source(manifest: Path, name: str) -> Rows:
    """A source of a manifest.

    Raises:
        ManifestError: no such manifest or source.
    """
    return ConversationRows(open_manifest_source(load_manifest(manifest), name))


__all__ = ["Chain", "Row", "Rows", "Unread", "open_rows", "open_source"]
