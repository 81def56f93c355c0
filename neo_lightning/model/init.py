"""Fresh weights, one named tensor at a time, and weights grown from a Qwen3 backbone.

Every tensor is drawn from its own generator, seeded by the seed and the tensor's name: the values do not depend on the
order of drawing, on the device, or on how many processes share the model. So a sharded model can be filled from the
same iterator as a whole one. Trade-off: drawing on the CPU, about 15 s per billion parameters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from neo_lightning.model.config import NeoConfig

STD = 0.02
"""Deviation of fresh matrices (the papers' and Qwen3's initializer_range).

It suits widths of thousands. A small language model of width E that starts from nothing learns sooner with about
1/sqrt(E), as recipes/demo.yaml has it."""

InitRule = Literal["zero_k", "smooth"]
"""How a backbone layer starts at exactly what Qwen3 computes, its H and W axes without effect on the scores.

`zero_k` (the papers'): k_proj_hw = 0, H and W norm weights 1. The norm in front multiplies the first gradients of
k_proj_hw by 1/sqrt(eps), about 1000.
`smooth`: k_proj_hw grown like q_proj_hw, and k_norm_h = k_norm_w = 0, which then open from zero at the pace of the
learning rate.

`zero_k` is the default, as it learned sooner in every paired run (docs/initialisation.md).
"""

_LAYER = re.compile(r"(language_model\.model\.layers\.)(\d+)(\..*)")


def initial_tensor(name: str, shape: torch.Size, seed: int, std: float = STD) -> Tensor:
    """The fresh float32 value of the parameter `name`: 1 for norms, 0 for biases, else normal(0, std).

    The first convolution has 1/sqrt(768) in any case, so that normalised pixels give channels of about unit variance.
    Weights of visual tokens' own begin as the layer's, and low-rank updates without effect.
    """
    name = name.replace(".visual.", ".")
    if name.endswith((".bias", ".lora_b")):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    if name.endswith("_scale"):  # of an encoder's branches, as InternViT's
        return torch.full(shape, 0.1)
    if name.endswith((".patch_embedding.weight", ".lora_a")):
        std = shape[1:].numel() ** -0.5
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def initial_state(
    shapes: Mapping[str, torch.Size], config: NeoConfig, seed: int, *, std: float = STD, closed_hw: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter's fresh value.

    Args:
        shapes: name -> shape, for example of a model on the meta device.
        config: of the model.
        seed: of the run.
        std: deviation of the backbone's matrices (post-LLM layers, embeddings, head); all others have STD.
        closed_hw: the backbone's layers (not the pre-buffer's) start with k_norm_h = k_norm_w = 0, so that their H and
            W axes have no effect at first; see `InitRule`.
    """
    closed = tuple(
        f"language_model.model.layers.{i}.self_attn.k_norm_{axis}.weight"
        for i in range(config.extra_num_layers, config.num_hidden_layers)
        for axis in "hw"
    )
    for name, shape in shapes.items():
        value = initial_tensor(name, shape, seed, STD if _backbone_name(name, config) is None else std)
        yield name, (value.zero_() if closed_hw and name.replace(".visual.", ".") in closed else value)


def grown_state(
    shapes: Mapping[str, torch.Size],
    config: NeoConfig,
    backbone: Callable[[str], Tensor],
    rule: InitRule = "zero_k",
    seed: int = 0,
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter of a NEO grown from a Qwen3.

    Qwen3's layer i becomes layer i + pre-buffer depth, copied whole, as are embeddings, final norm and head. The patch
    embedding and the pre-buffer start afresh.

    Args:
        shapes: name -> shape of the NEO's parameters.
        config: of the NEO.
        backbone: gives Qwen3's tensor by its name in the NEO without the pre-buffer, float32.
        rule: how the H and W axes of the copied layers start; see `InitRule`.
        seed: of what starts afresh.

    Raises:
        ValueError: no such rule.
    """
    if rule not in get_args(InitRule):
        raise ValueError(f"initialisation rule {rule!r} is unknown; there are: {', '.join(get_args(InitRule))}")
    for name, shape in shapes.items():
        source = _backbone_name(name, config)
        yield name, initial_tensor(name, shape, seed) if source is None else _grow(source, backbone, config, rule)


def _backbone_name(name: str, config: NeoConfig) -> str | None:
    """`name` with the layer's number in the backbone; None where the backbone has no such part."""
    if name.startswith("vision_model.") or ".vision_lora." in name:
        return None
    match = _LAYER.fullmatch(name.replace(".visual.", "."))
    if match is None:
        return name
    layer = int(match[2]) - config.extra_num_layers
    return None if layer < 0 else f"{match[1]}{layer}{match[3]}"


def _grow(name: str, backbone: Callable[[str], Tensor], config: NeoConfig, rule: InitRule) -> Tensor:
    """One tensor of a backbone layer (or copied from outside the layers)."""
    part = name.rpartition(".self_attn.")[2]
    if part in ("q_norm_h.weight", "q_norm_w.weight"):
        return torch.ones(config.head_dim // 2)
    if part in ("k_norm_h.weight", "k_norm_w.weight"):
        return torch.full((config.head_dim // 2,), 0.0 if rule == "smooth" else 1.0)
    if part == "q_proj_hw.weight" or (part == "k_proj_hw.weight" and rule == "smooth"):
        return _spread_quarters(backbone(name.replace("_proj_hw", "_proj")), config.head_dim)
    if part == "k_proj_hw.weight":
        return torch.zeros_like(backbone(name.replace("_proj_hw", "_proj")))
    return backbone(name)


def _spread_quarters(weight: Tensor, head_dim: int) -> Tensor:
    """[heads * head_dim, E] -> the same: per head the first and third quarter of the rows, once for H, once for W.

    The T axis pairs row i with i + head_dim / 2, so these quarters are whole pairs: those of the higher frequencies.
    """
    heads = weight.view(-1, 4, head_dim // 4, weight.shape[1])
    return heads[:, [0, 2, 0, 2]].reshape(weight.shape)
