from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from data_helpers import chat, clip, encoded, make_qwen_tokenizer, make_tokenizer, picture, write_tar

from neo_lightning.data.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_folder: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_folder)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return make_qwen_tokenizer(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of four sources, one of each modality."""
    folder = tmp_path_factory.mktemp("shards")
    texts = {f"t{i}.json": json.dumps({"text": f"left {i} right " * (1 + i % 5)}).encode() for i in range(40)}
    write_tar(folder / "text.tar", texts)
    for part in range(2):
        members: dict[str, bytes] = {}
        for i in range(part * 20, part * 20 + 20):
            image = picture(40 + i, 64, i)
            members[f"i{i}.json"] = chat("What is it?" if i % 2 else "<image>\nWhat?", f"number {i}", meta={"n": i})
            members[f"i{i}.{'jpg' if i % 2 else 'png'}"] = encoded(image, "JPEG" if i % 2 else "PNG")
        write_tar(folder / f"image-{part}.tar", members)
    pairs: dict[str, bytes] = {}
    for i in range(10):
        pairs[f"p{i}.0.png"] = encoded(picture(64, 64, i))
        pairs[f"p{i}.1.jpg"] = encoded(picture(64, 32, i + 50), "JPEG")
        pairs[f"p{i}.json"] = chat("<image><image>same?", "no")
    write_tar(folder / "pairs.tar", pairs)
    movie = clip(6)
    write_tar(folder / "clips.tar", {f"c{i}.{e}": d for i in range(5) for e, d in (("mp4", movie), ("txt", b"grey"))})
    (folder / "m.yaml").write_text(
        "sources:\n"
        "  text: {modality: text, shards: text.tar}\n"
        "  image: {modality: image, shards: 'image-{0..1}.tar'}\n"
        "  pairs: {modality: multi_image, shards: pairs.tar}\n"
        "  clips: {modality: video, shards: clips.tar}\n"
    )
    return folder / "m.yaml"
