"""Fresh weights, one named tensor at a time, and weights grown from a Qwen3 backbone.

Every tensor is drawn from its own generator, seeded by the seed and the tensor's name: the values do not depend on the
order of drawing, on the device, or on how many processes share the model. So a sharded model can be filled from the
same iterator as a whole one. Trade-off: drawing on the CPU, about 15 s per billion parameters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from neo_lightning.model.config import NeoConfig

STD = 0.02
"""Deviation of fresh matrices (the papers' and Qwen3's initializer_range)."""

InitRule = Literal["zero_k", "smooth"]
"""How a backbone layer starts at exactly what Qwen3 computes, its H and W axes without effect on the scores.

`zero_k` (the papers'): k_proj_hw = 0, H and W norm weights 1. The norm in front multiplies the first gradients of
k_proj_hw by 1/sqrt(eps), about 1000.
`smooth`: k_proj_hw grown like q_proj_hw, and k_norm_h = k_norm_w = 0, which then open from zero at the pace of the
learning rate.
"""


def initial_tensor(name: str, shape: torch.Size, seed: int) -> Tensor:
    """The fresh float32 value of the parameter `name`: 1 for norms, 0 for biases, else normal(0, 0.02)."""
    if "norm" in name:
        return torch.ones(shape)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    return torch.empty(shape).normal_(0.0, STD, generator=generator)


def initial_state(
    shapes: Mapping[str, torch.Size], config: NeoConfig, seed: int, *, closed_hw: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Every parameter's fresh value.

    Args:
        shapes: name -> shape, for example of a model on the meta device.
        config: of the model.
        seed: of the run.
        closed_hw: the backbone's layers (not the pre-buffer's) start with k_norm_h = k_norm_w = 0, so that their H and
            W axes have no effect at first; see `InitRule`.
    """
    closed = tuple(
        f"language_model.model.layers.{i}.self_attn.k_norm_{axis}.weight"
        for i in range(config.extra_num_layers, config.num_hidden_layers)
        for axis in "hw"
    )
    for name, shape in shapes.items():
        value = initial_tensor(name, shape, seed)
        yield name, (value.zero_() if closed_hw and name in closed else value)
