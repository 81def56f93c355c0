"""What a score depends on, as plain values that lie beside it: prompt, budgets, decoding, seed, data, model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...answering import Answering
from ..benchmarks import Benchmark
from ..readers import Rows

_PACKAGES = ("neo-lightning", "torch", "torchvision", "torchmetrics", "tokenizers", "pillow", "av")
_PIECES, _PIECE = 64, 1 << 16
THE_SERVERS = "the server's own"


def settings_of(
    benchmark: Benchmark,
    *,
    asked: Answering | None,
    decoding: Mapping[str, float],
    preset: str,
    seed: int,
    rows: Rows,
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """The settings of one score.

    Args:
        benchmark: what is asked.
        asked: how the model is asked; None for a server, which has budgets of its own.
        decoding, preset, seed: how answers are chosen.
        rows: the data.
        model: see `model_facts`.
    """
    return {
        **published_settings(benchmark),
        "image": asdict(asked.image) if asked else THE_SERVERS,
        "video": asdict(asked.video) if asked else THE_SERVERS,
        "decoding": dict(decoding),
        "preset": preset,
        "seed": seed,
        "data": {"name": rows.name, "rows": len(rows), "sha256": rows.digest},
        "model": dict(model),
    }


def published_settings(benchmark: Benchmark) -> dict[str, Any]:
    """What a benchmark itself says; budgets are None where it has none."""
    return {
        "benchmark": benchmark.name,
        "metric": benchmark.metric,
        "prompt": asdict(benchmark.words),
        "system": benchmark.system,
        "image": asdict(benchmark.image) if benchmark.image else None,
        "video": asdict(benchmark.video) if benchmark.video else None,
        "frames": asdict(benchmark.frames) if benchmark.frames else None,
        "enlarge": benchmark.enlarge,
        "only": dict(benchmark.only),
        "decoding": dict(benchmark.decoding),
        "source": benchmark.source,
    }


def model_facts(folder: Path, adapter: Path | None = None) -> dict[str, str]:
    """A model folder's place, and a digest of its config and of pieces of its weights, spread over every file.

    The same of an adapter's folder, where there is one.

    Other training moves every weight, so the pieces tell; reading all of a large model would take minutes.
    """
    hasher = hashlib.sha256()
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.json")]):
        size = file.stat().st_size
        hasher.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for piece in range(_PIECES):
                stream.seek(size * piece // _PIECES)
                hasher.update(stream.read(_PIECE))
                if size <= _PIECE:
                    break
    of_adapter = {} if adapter is None else {f"adapter's {key}": x for key, x in model_facts(adapter).items()}
    return {"folder": str(folder), "sha256_of_pieces": hasher.hexdigest(), **of_adapter}


def versions() -> dict[str, str]:
    """Versions of what answers and grades."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
