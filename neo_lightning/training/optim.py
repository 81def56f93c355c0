"""AdamW over every parameter from the first step on.

In: a model. Out: one optimiser with two groups: matrices (with weight decay; the embedding is one of them, as in the
authors' kit) and vectors, that is norms and biases (without); each is split where stages scale the learning rate of
some of its parameters. The step sets each group's rate, a pure function of the step and of the group. Frozen parameters
are in it too: without a gradient AdamW neither moves nor decays them and keeps no state, so a stage switch needs no new
optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


def parameter_groups(
    model: nn.Module, weight_decay: float, lr_scales: Mapping[str, Mapping[str, float]]
) -> list[dict[str, Any]]:
    """Parameters with at least two axes, which are decayed, and vectors, which are not.

    Args:
        lr_scales: stage -> parameter name -> factor of the learning rate; kept with each group as `lr_scales`, by
            stage.
    """
    groups: dict[tuple[Any, ...], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        key = (parameter.ndim < 2, *(scales[name] for scales in lr_scales.values()))
        groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if vector else weight_decay,
            "lr_scales": dict(zip(lr_scales, scales, strict=True)),
        }
        for (vector, *scales), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def build_adamw(
    model: nn.Module,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    lr_scales: Mapping[str, Mapping[str, float]],
) -> torch.optim.AdamW:
    """AdamW whose learning rates the training step sets; one fused kernel per group."""
    groups = parameter_groups(model, weight_decay, lr_scales)
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
