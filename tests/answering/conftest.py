"""The held-out shards and the tiny random model of the evaluation's tests, and media to ask about."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.answering import Answering, Engine, load, write_folder
from neo_lightning.data.index import ShardSource, iterate_samples
from neo_lightning.model.config import NeoConfig
from neo_lightning.types import Media
from tests.evaluation.conftest import CLIP, SMALL, config, shards, tokenizer, tokenizer_folder
from tests.tiny_models import random_model

__all__ = ["config", "shards", "tokenizer", "tokenizer_folder"]


@pytest.fixture(scope="session")
def folder(config: NeoConfig, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with small budgets of its own."""
    out = tmp_path_factory.mktemp("folder")
    answering = Answering(image=SMALL, video=CLIP, max_new_tokens=5)
    return write_folder(random_model(config, 0), out, tokenizer_folder, answering)


@pytest.fixture(scope="session")
def engine(folder: Path) -> Engine:
    return load(folder)


@pytest.fixture(scope="session")
def media(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Files of three drawn images and of two clips."""
    out = tmp_path_factory.mktemp("media")
    found: dict[str, list[Path]] = {"image": [], "video": []}
    for kind, task in (("image", "colour"), ("video", "motion")):
        for sample in iterate_samples(ShardSource("x", kind, (str(shards / f"{task}-000000.tar"),))):
            data = next(part.data for part in sample.messages[0].parts if isinstance(part, Media))
            found[kind].append(out / f"{sample.key}.bin")
            found[kind][-1].write_bytes(data)
    return found
