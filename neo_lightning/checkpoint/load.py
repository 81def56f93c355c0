"""A model folder in the released layout -> `Neo`.

In: a folder (or `hf://owner/name`) with `config.json` and safetensors. Out: the model, with every tensor checked by
name and shape before anything is built. Custom code that a config.json may name is never looked at.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from neo_lightning.checkpoint.names import EMBEDDINGS, HEAD, expected_shapes, without_tied_head
from neo_lightning.checkpoint.read import check_tensors, model_folder, read_json, read_tensors
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo

_SENSENOVA_U1 = (
    "this is a SenseNova-U1, which says model_type 'neo_chat' too and has layers of its own for generating images "
    "(*_mot_gen); it is another network than NEO and NEO-ov"
)


def load_config(source: str | Path) -> NeoConfig:
    """Config of a model folder (or `hf://owner/name`).

    Raises:
        ValueError: see `NeoConfig.from_dict`; names the file.
    """
    file = model_folder(source) / "config.json"
    config = read_json(file)
    if config.get("model_type") == "qwen3":
        raise ValueError(
            f"{file} is that of a Qwen3, which becomes a NEO by "
            f"`neo-lightning model init --qwen3 {source} --tokenizer TOKENIZER --out FOLDER`"
        )
    if any(name.startswith("fm_head") for name in config):
        raise ValueError(f"{file}: {_SENSENOVA_U1}; it has {', '.join(n for n in config if n.startswith('fm_head'))}")
    if quantised := config.get("quantization_config"):
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        raise ValueError(
            f"{file}: the weights are quantised ({method}), which transformers reads (docs/using.md); name the "
            f"folder that they were made from"
        )
    try:
        return NeoConfig.from_dict(config)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error


def load_state(source: str | Path) -> dict[str, Tensor]:
    """Every parameter of a model folder (or `hf://owner/name`) by name, in its stored dtype, memory-mapped.

    Raises:
        ValueError: no such folder, no safetensors, another model, or missing, unexpected or wrongly shaped tensors;
            lists all.
    """
    folder = model_folder(source)
    tensors = read_tensors(folder)
    if foreign := [name for name in tensors if "_mot_gen" in name]:
        raise ValueError(f"{folder}: {_SENSENOVA_U1}; {len(foreign)} of its tensors are such as {foreign[0]}")
    config = load_config(folder)
    if config.design.hw_heads and not any("q_proj_hw" in name for name in tensors):
        raise ValueError(f"{folder}: this is no NEO, whose layers have a q_proj_hw; it has {min(tensors)}, ...")
    if config.tie_word_embeddings:
        tensors = without_tied_head(tensors, HEAD, EMBEDDINGS)
    check_tensors(tensors, expected_shapes(config), f"{folder}: the tensors do not fit config.json")
    not_float = sorted(name for name, tensor in tensors.items() if not tensor.is_floating_point())
    if not_float:
        raise ValueError(f"{folder}: expected floating-point weights, {not_float[0]} is {tensors[not_float[0]].dtype}")
    return {name: tensors[name] for name in expected_shapes(config)}


def load_model(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    attention: str = "auto",
) -> Neo:
    """The model of a folder.

    Args:
        source: local folder, or `hf://owner/name`.
        dtype: of the parameters in memory.
        device: where they go.
        attention: backend of `ops.interval_attention`.

    Raises:
        ValueError: see `load_state`.
    """
    folder = model_folder(source)
    state = load_state(folder)
    with torch.device("meta"):
        model = Neo(load_config(folder), attention=attention).to(dtype)
    model.to_empty(device=device)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(state[name])  # a copy: the files may be replaced while the model lives
    return model
