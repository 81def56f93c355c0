"""Folders that lack a part: transformers would fill in what is missing at random."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel

import neo_lightning.hf
from tests.hf.model_support import GOLDEN

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "model"))


@pytest.mark.parametrize("left", [0, 4, 5000])
def test_a_cut_file_is_named(folder: Path, left: int) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} is damaged or cut"):
        AutoModel.from_pretrained(folder)


def test_a_missing_tensor_is_named_and_never_random(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    gone = "language_model.model.layers.1.self_attn.q_proj_hw.weight"
    del tensors[gone]
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=f"1 tensors are missing, such as {re.escape(gone)}"):
        AutoModel.from_pretrained(folder)


def test_a_sensenova_u1_is_refused_by_its_tensors(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = "language_model.model.layers.0.mlp_mot_gen.up_proj.weight"
    save_file({**tensors, name: next(iter(tensors.values())).clone()}, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=f"SenseNova-U1, another network; it has 1 like {re.escape(name)}"):
        AutoModel.from_pretrained(folder)


def test_what_was_loaded_is_told_to_who_asks(folder: Path) -> None:
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, neo_lightning.hf.NEOChatModel)
    assert not info["missing_keys"]
