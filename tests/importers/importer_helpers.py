"""Records of other people's formats, and what an import made of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import webdataset

from neo_lightning.data.index import iterate_samples, open_source
from neo_lightning.types import Media, Sample
from tests.data.data_helpers import clip, encoded, picture

PHOTO = encoded(picture(40, 30, 1), "JPEG")
DRAWING = encoded(picture(30, 40, 2))
CLIP = clip(6)


def llava(question: str, answer: str = "yes", **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}], **more}


def lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def read(manifest: Path, source: str) -> list[Sample]:
    """Samples as training sees them; none may be left out."""
    opened = open_source(manifest, source)
    assert opened.skipped == []
    return list(iterate_samples(opened))


def blobs(sample: Sample) -> list[bytes]:
    return [p.data for m in sample.messages for p in m.parts if isinstance(p, Media)]


def text(sample: Sample) -> list[str]:
    return ["".join("#" if isinstance(p, Media) else p for p in m.parts) for m in sample.messages]


def members(out: Path, modality: str) -> list[dict[str, Any]]:
    """Samples as webdataset's own reader gives them."""
    shards = [str(path) for path in sorted(out.glob(f"{modality}-*.tar"))]
    return list(webdataset.WebDataset(shards, shardshuffle=False))


def log(out: Path) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in (out / "import.log").read_text().splitlines()]
    return [(entry["record"], entry["reason"]) for entry in found if "reason" in entry]


def digests(out: Path) -> dict[str, str]:
    """Of everything that an import leaves behind."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.iterdir()) if p.is_file()}
