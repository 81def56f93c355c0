"""A Qwen3 folder -> the first weights of a NEO around it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from neo_lightning.checkpoint.names import expected_shapes, to_qwen3, without_tied_head
from neo_lightning.checkpoint.read import as_float32, check_tensors, model_folder, read_json, read_tensors
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.init import InitRule, grown_state

_SHARED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "tie_word_embeddings",
)
"""Fields in which a NEO agrees with its backbone."""
_ADDED = re.compile(r"^vision_model\.|_proj_hw\.|_norm_[hw]\.")
"""Names of what a NEO has and its backbone has not."""


def qwen3_config(source: str | Path, extra_num_layers: int | None = None, **overrides: object) -> NeoConfig:
    """Config of a NEO around the Qwen3 in a folder (or `hf://owner/name`), every size taken from it.

    Args:
        source: the Qwen3's folder.
        extra_num_layers: depth of the pre-buffer; None takes `pre_buffer_depth`.
        overrides: see `NeoConfig.qwen3`.

    Raises:
        ValueError: no such folder, or no Qwen3 that a NEO can be built around.
    """
    backbone = _read_qwen3_config(model_folder(source) / "config.json")
    if extra_num_layers is None:
        extra_num_layers = pre_buffer_depth(NeoConfig.qwen3(backbone, extra_num_layers=0).hidden_size)
    return NeoConfig.qwen3(backbone, extra_num_layers=extra_num_layers, **overrides)


def pre_buffer_depth(hidden_size: int) -> int:
    """Layers of the pre-buffer that suit a backbone's width.

    Both released sizes have depth x width = 24576 (12 layers of 2048 and 6 of 4096; NEO paper): the same here, with at
    most the 12 layers up to which the paper tried, and at least one.
    """
    return max(1, min(12, round(12 * 2048 / hidden_size)))


def qwen3_state(
    shapes: Mapping[str, torch.Size],
    config: NeoConfig,
    source: str | Path,
    rule: InitRule = "zero_k",
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a NEO grown from the Qwen3 in a folder (or `hf://owner/name`), float32, one at a time.

    Args:
        shapes: name -> shape of the NEO's parameters.
        config: of the NEO.
        source: the Qwen3's folder.
        rule: see `model.init.InitRule`.
        seed: of what starts afresh.

    Raises:
        ValueError: the folder is no Qwen3, or one of another shape, or its tensors are not the ones it should have.
    """
    folder = model_folder(source)
    theirs = NeoConfig.qwen3(_read_qwen3_config(folder / "config.json"), extra_num_layers=0)
    wrong = [
        f"  {name}: the backbone has {getattr(theirs, name)}, the model {getattr(config, name)}"
        for name in _SHARED
        if getattr(theirs, name) != getattr(config, name)
    ]
    if theirs.num_hidden_layers != config.post_layers:
        wrong.append(f"  layers: the backbone has {theirs.num_hidden_layers}, the model {config.post_layers} post-LLM")
    if wrong:
        raise ValueError(
            f"{folder}: this Qwen3 does not fit the model:\n" + "\n".join(wrong) + "\nWithout a model of its own "
            "(`--model`, or `model.model` in a recipe) every size is taken from the Qwen3"
        )
    tensors = _backbone_tensors(folder, theirs)
    return grown_state(shapes, config, lambda name: as_float32(tensors[to_qwen3(name)]), rule, seed)


def _read_qwen3_config(file: Path) -> dict[str, object]:
    config = read_json(file)
    if config.get("model_type") == "neo_chat":
        raise ValueError(
            f"{file}: expected model_type 'qwen3', found 'neo_chat': a NEO is started from as it is "
            f"(in a recipe `init: {{kind: released, folder: {file.parent}}}`)"
        )
    if config.get("model_type") != "qwen3":
        raise ValueError(f"{file}: expected model_type 'qwen3', found {config.get('model_type')!r}")
    return config


def _backbone_tensors(folder: Path, config: NeoConfig) -> dict[str, Tensor]:
    """The folder's tensors by Qwen3's names, checked against the config."""
    tensors = read_tensors(folder)
    if config.tie_word_embeddings:
        tensors = without_tied_head(tensors, "lm_head.weight", "model.embed_tokens.weight")
    expected = {to_qwen3(name): shape for name, shape in expected_shapes(config).items() if not _ADDED.search(name)}
    check_tensors(tensors, expected, f"{folder}: the tensors do not fit config.json")
    return tensors
