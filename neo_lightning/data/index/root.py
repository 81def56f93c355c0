"""What is known of all shards of a source: one JSON file, so that the next start asks only for sizes and dates."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from neo_lightning.data.files import replacing
from neo_lightning.data.index import sidecar
from neo_lightning.data.index.sidecar import Summary
from neo_lightning.data.index.tokens import Counting
from neo_lightning.data.store import Stamp


@dataclass(frozen=True, kw_only=True)
class Index:
    """A source's shards, indexed."""

    shards: tuple[str, ...]
    files: tuple[Path, ...]
    """Sidecars."""
    summaries: tuple[Summary, ...]

    @property
    def samples(self) -> int:
        """Usable samples."""
        return sum(sum(summary.shard_parts) for summary in self.summaries)

    @property
    def modalities(self) -> dict[str, int]:
        """Usable samples by modality."""
        counts: dict[str, int] = {}
        for summary in self.summaries:
            for modality, count in summary.modalities.items():
                counts[modality] = counts.get(modality, 0) + count
        return counts

    @property
    def unused(self) -> dict[str, int]:
        """What usable samples say without effect -> in how many, the commonest first."""
        counts: Counter[str] = Counter()
        for summary in self.summaries:
            counts.update(summary.unused)
        return dict(counts.most_common())

    @property
    def digest(self) -> str:
        """Of everything that the plan depends on, whatever the shards' place or date."""
        return hashlib.sha256("\0".join(summary.digest for summary in self.summaries).encode()).hexdigest()


def root_file(files: Sequence[Path], modality: str) -> Path:
    """The root file of a source with these sidecars."""
    name = hashlib.sha256("\0".join([modality, *(str(file) for file in files)]).encode()).hexdigest()[:16]
    return files[0].with_name(f"root-{name}.json")


def read_root(
    root: Path, stamps: Sequence[Stamp], files: Sequence[Path], counting: Counting | None
) -> list[Summary | None]:
    """Summaries that are up to date; None for each shard that has to be looked at. A damaged root counts as none."""
    try:
        content = json.loads(root.read_text(encoding="utf-8"))
        found = [sidecar.make_summary(entry) for entry in content["shards"]]
        if content["checksum"] != _checksum(found):
            found = []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        found = []
    if len(found) != len(files):
        return [None] * len(files)
    there = {folder: set(os.listdir(folder)) for folder in {file.parent for file in files}}
    fresh: list[Summary | None] = []
    for summary, stamp, file in zip(found, stamps, files, strict=True):
        needed = [file]
        if counting is not None:
            needed.append(sidecar.tokens_of(file, counting.digest, summary.digest))
        ready = (
            summary.version == sidecar.VERSION
            and summary.stamp == stamp
            and all(name.name in there[name.parent] for name in needed)
        )
        fresh.append(summary if ready else None)
    return fresh


def write_root(root: Path, modality: str, index: Index) -> None:
    """Write totals for people and other programs, and each shard's summary."""
    content = {
        "version": sidecar.VERSION,
        "modality": modality,
        "samples": index.samples,
        "left_out": sum(summary.left_out for summary in index.summaries),
        "bytes": sum(summary.size for summary in index.summaries),
        "modalities": index.modalities,
        "unused": index.unused,
        "digest": index.digest,
        "checksum": _checksum(index.summaries),
        "shards": [asdict(summary) for summary in index.summaries],
    }
    with replacing(root) as copy:
        copy.write_text(json.dumps(content), encoding="utf-8")


def _checksum(summaries: Sequence[Summary]) -> str:
    listed = json.dumps([asdict(summary) for summary in summaries], sort_keys=True)
    return hashlib.sha256(listed.encode()).hexdigest()
