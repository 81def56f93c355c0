"""AdamW over every parameter from the first step on.

In: a model. Out: one optimiser with two groups: matrices (with weight decay; the embedding is one of them, as in the
authors' kit) and vectors, that is norms and biases (without). Frozen parameters are in it too: without a gradient AdamW
neither moves nor decays them and keeps no state, so a stage switch needs no new optimiser.
"""

from __future__ import annotations

import torch
from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: parameters with at least two axes are decayed, vectors are not."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def build_adamw(
    model: nn.Module, *, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW whose learning rate the training step sets; one fused kernel per group."""
    return torch.optim.AdamW(parameter_groups(model, weight_decay), lr=lr, betas=betas, eps=eps, fused=True)
