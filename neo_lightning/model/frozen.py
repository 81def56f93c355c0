"""Projections whose frozen weights lie in 8 bits, beside low-rank terms that are trained (arXiv 2305.14314, in 8 bits).

<projection>.weight [F, E] int8      <projection>.weight_scale [F] bfloat16      see `ops.eight_bits`
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from neo_lightning.ops.eight_bits import Coded

_SCALE = "_scale"


def held(projection: nn.Linear) -> Tensor | Coded:
    """A projection's weight, as it lies in memory."""
    if projection.weight.dtype != torch.int8:
        return projection.weight
    return Coded(projection.weight, projection.weight_scale)  # type: ignore[arg-type]


def hold_in_8_bits(model: nn.Module, weights: Iterable[str]) -> None:
    """Make room for the codes of weights, by name, in place of them. Nothing is encoded: theirs are undefined."""
    for name in weights:
        projection = model.get_submodule(name.rpartition(".")[0])
        weight: Tensor = projection.weight  # type: ignore[assignment]
        codes, scale = weight.to(torch.int8), weight.new_empty(weight.shape[0], dtype=torch.bfloat16)
        projection.weight = nn.Parameter(codes, requires_grad=False)
        projection.weight_scale = nn.Parameter(scale, requires_grad=False)


def scale_name(weight: str) -> str:
    """The parameter that holds the scales of a weight's codes."""
    return f"{weight}{_SCALE}"


def is_scale(name: str) -> bool:
    """Whether a parameter's name is that of scales."""
    return name.endswith(f".weight{_SCALE}")
