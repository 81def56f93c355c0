"""One optimiser over every parameter from the first step on: AdamW, or Muon with AdamW (`training.muon`).

In: a model. Out: groups of matrices (with weight decay; the embedding is one of them, as in the authors' kit) and of
vectors, that is norms and biases (without); each is split where stages scale the learning rate of some of its
parameters, and for Muon projections are groups of their own. The step sets each group's rate, a pure function of the
step and of the group. Frozen parameters are in it too: without a gradient no parameter is moved or decayed, and none
has a state, so a stage switch needs no new optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import nn

from neo_lightning.training.muon import Muon

Kind = Literal["adamw", "muon"]
PROJECTIONS = ("_proj.weight", "_proj_hw.weight")
"""How names of matrices between a layer's activations end. Not embeddings and head, whose rows are words, nor low-rank
factors."""


def orthogonal(name: str) -> bool:
    """Whether Muon moves the parameter of a name by orthogonalised momentum."""
    return name.endswith(PROJECTIONS)


def parameter_groups(
    model: nn.Module, weight_decay: float, lr_scales: Mapping[str, Mapping[str, float]], kind: Kind = "adamw"
) -> list[dict[str, Any]]:
    """Parameters with at least two axes, which are decayed, and vectors, which are not.

    Args:
        lr_scales: stage -> parameter name -> factor of the learning rate; kept with each group as `lr_scales`, by
            stage.
        kind: with `muon` each group says whether it is `orthogonal`.
    """
    groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        turned = kind == "muon" and orthogonal(name)
        key = (parameter.ndim < 2, turned, *(scales[name] for scales in lr_scales.values()))
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if vector else weight_decay,
            "lr_scales": dict(zip(lr_scales, scales, strict=True)),
            **({"orthogonal": turned} if kind == "muon" else {}),
        }
        for (vector, turned, *scales), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_optimizer(
    model: nn.Module,
    *,
    kind: Kind = "adamw",
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    lr_scales: Mapping[str, Mapping[str, float]],
) -> torch.optim.Optimizer:
    """An optimiser whose learning rates the training step sets; of AdamW one fused kernel per group."""
    groups = parameter_groups(model, weight_decay, lr_scales, kind)
    if kind == "muon":
        return Muon(groups, lr=lr, betas=betas, eps=eps)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
