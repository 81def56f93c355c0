"""Real held-out shards, a tokenizer trained on their words, and a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from neo_lightning.data.index import ShardSource, iterate_samples
from neo_lightning.data.text.tokenizer import Tokenizer, train_tokenizer
from neo_lightning.evaluation import EvaluationContext
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo
from neo_lightning.scenes import write_scenes
from neo_lightning.types import PixelBudget, Stage, VideoBudget

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
    return NeoConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        extra_num_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        patch_hidden_size=16,
        tie_word_embeddings=False,
        image_token_id=tokenizer.context_id,
        image_start_token_id=tokenizer.img_start_id,
    )


def random_model(config: NeoConfig, seed: int) -> Neo:
    """A model with random weights, so large that its answers differ from question to question."""
    model = Neo(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim > 1 else 1.0, generator=generator)
    return model.eval()


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
