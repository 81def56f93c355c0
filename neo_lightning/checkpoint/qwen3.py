"""A Qwen3 folder -> the first weights of a NEO around it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from neo_lightning.checkpoint.names import expected_shapes, to_qwen3, without_tied_head
from neo_lightning.checkpoint.read import as_float32, check_tensors, read_json, read_tensors, resolve_folder
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.init import InitRule, grown_state
from neo_lightning.model.neo import Neo

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


def qwen3_config(source: str | Path, *, extra_num_layers: int, **overrides: object) -> NeoConfig:
    """Config of a NEO around the Qwen3 in a folder (or Hugging Face id); see `NeoConfig.qwen3`."""
    file = resolve_folder(source) / "config.json"
    return NeoConfig.qwen3(_read_qwen3_config(file), extra_num_layers=extra_num_layers, **overrides)


def qwen3_state(
    shapes: Mapping[str, torch.Size],
    config: NeoConfig,
    source: str | Path,
    rule: InitRule = "zero_k",
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a NEO grown from the Qwen3 in a folder (or Hugging Face id), float32, one at a time.

    Args:
        shapes: name -> shape of the NEO's parameters.
        config: of the NEO.
        source: the Qwen3's folder.
        rule: see `model.init.InitRule`.
        seed: of what starts afresh.

    Raises:
        ValueError: the folder is no Qwen3, or one of another shape, or its tensors are not the ones it should have.
    """
    folder = resolve_folder(source)
    theirs = NeoConfig.qwen3(_read_qwen3_config(folder / "config.json"), extra_num_layers=0)
    wrong = [
        f"  {name}: the backbone has {getattr(theirs, name)}, the model {getattr(config, name)}"
        for name in _SHARED
        if getattr(theirs, name) != getattr(config, name)
    ]
    if theirs.num_hidden_layers != config.post_layers:
        wrong.append(f"  layers: the backbone has {theirs.num_hidden_layers}, the model {config.post_layers} post-LLM")
    if wrong:
        raise ValueError(f"{folder}: this Qwen3 does not fit the model:\n" + "\n".join(wrong))
    tensors = _backbone_tensors(folder, theirs)
    return grown_state(shapes, config, lambda name: as_float32(tensors[to_qwen3(name)]), rule, seed)


def init_from_qwen3(model: Neo, source: str | Path, rule: InitRule = "zero_k", seed: int = 0) -> None:
    """Fill a model from the Qwen3 in a folder (or Hugging Face id); see `qwen3_state`."""
    parameters = dict(model.named_parameters())
    shapes = {name: p.shape for name, p in parameters.items()}
    with torch.no_grad():
        for name, value in qwen3_state(shapes, model.config, source, rule, seed):
            parameters[name].copy_(value)


def _read_qwen3_config(file: Path) -> dict[str, object]:
    config = read_json(file)
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
