"""Folders that lack a part: transformers would fill in what is missing at random."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForImageTextToText, TorchAoConfig

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


@pytest.mark.skipif("NEO_LOWEST" in os.environ, reason="torchao wants the torch of its own day")
def test_weights_in_8_bits_are_loaded_kept_and_read_again(folder: Path, tmp_path: Path) -> None:
    """torchao's, as docs/using.md has it: the layers' matrices alone, and nearly the same logits."""
    from torchao.quantization import Int8WeightOnlyConfig

    ids = torch.randint(0, 200, (2, 12), generator=torch.Generator().manual_seed(0))
    whole = AutoModelForImageTextToText.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(
        folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig())
    )
    kinds = {name: type(part.weight).__name__ for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    assert kinds.pop("language_model.lm_head") == "Parameter"
    assert set(kinds.values()) == {"Int8Tensor"}
    with torch.no_grad():
        wanted, found = whole(input_ids=ids).logits, model(input_ids=ids).logits
    error = (found - wanted).norm() / wanted.norm()
    # a weight is off by up to 1 / 254 of its row's largest, some 0.7% of what is usual; 14 matrices one behind another
    assert 0 < error < 0.05
    model.save_pretrained(tmp_path / "small")
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "small")
    with torch.no_grad():
        torch.testing.assert_close(again(input_ids=ids).logits, found, rtol=0, atol=0)
