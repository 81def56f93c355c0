"""Real held-out shards, a tokenizer trained on their words, and a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.data.index import ShardSource, iterate_samples
from neo_lightning.data.text.tokenizer import Tokenizer, train_tokenizer
from neo_lightning.evaluation import EvaluationContext
from neo_lightning.model.config import NeoConfig
from neo_lightning.scenes import write_scenes
from neo_lightning.types import PixelBudget, Stage, VideoBudget
from tests.tiny_models import random_model, tiny_config

PER_TASK = 3
SMALL = PixelBudget(min_pixels=64 * 64, max_pixels=96 * 96)
CLIP = VideoBudget(fps=None, max_frames=3, min_pixels=64 * 64, max_pixels=64 * 64)


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with one held-out shard for each task."""
    out = tmp_path_factory.mktemp("scenes")
    write_scenes(out, seed=3, train={}, held_out_per_task=PER_TASK, workers=0, progress=False)
    return out / "test"


@pytest.fixture(scope="session")
def tokenizer_folder(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tokenizer")
    text = [ShardSource("x", "text", (shards / f"{task}-000000.tar",)) for task in ("copy", "lookup")]
    words = [part for s in text for sample in iterate_samples(s) for m in sample.messages for part in m.parts]
    train_tokenizer([str(word) for word in words], 320, out)
    return out


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture(scope="session")
def config(tokenizer: Tokenizer) -> NeoConfig:
    return tiny_config(tokenizer)


def stages() -> dict[str, Stage]:
    """A curriculum of two stages."""
    common = {"context": 64, "packs_per_step": 1, "image": SMALL, "video": CLIP}
    return {
        "warm-up": Stage(steps=10, mixture={"text": 1.0}, lr=1e-3, trains=("backbone",), **common),
        "all": Stage(steps=20, mixture={"text": 1.0, "image": 3.0}, lr=1e-3, **common),
    }


@pytest.fixture
def context(config: NeoConfig, tokenizer: Tokenizer, tmp_path: Path) -> EvaluationContext:
    return EvaluationContext(
        model=random_model(config, 0), tokenizer=tokenizer, run_dir=tmp_path / "run", stages=stages(), title="tiny"
    )
