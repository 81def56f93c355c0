"""Head and cross-entropy in one: hidden states and the head's weight in, weighted loss out; no logits are kept.

Rows go through in chunks. A chunk's logits live only while its loss and its gradients are made, so the forward pass
also makes the gradients (three matmuls in all, nothing recomputed) and the backward pass scales them. Trade-off: the
gradients are made even where no backward pass follows; turn gradients off (`torch.no_grad`) for evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor

from neo_lightning.ops.linear_cross_entropy.chunked import ChunkedLinearCrossEntropy
from neo_lightning.ops.linear_cross_entropy.reference import linear_cross_entropy_reference

__all__ = ["CHUNK", "linear_cross_entropy", "linear_cross_entropy_reference"]

CHUNK = 2048
"""Rows of logits at a time."""


def linear_cross_entropy(
    hidden_NE: Tensor, weight_VE: Tensor, targets_N: Tensor, weights_N: Tensor, *, chunk: int = CHUNK
) -> tuple[Tensor, Tensor]:
    """sum_n weights_n * -log softmax(weight hidden_n)[target_n].

    Args:
        hidden_NE: [N, E] hidden states; weight_VE: [V, E] of the head, same dtype (or both under autocast).
        targets_N: [N] int64 in [0, V); weights_N: [N] float32, constants (no gradient).
        chunk: rows at a time; memory is chunk * V * 4 bytes and a little.

    Returns:
        The loss as a float32 scalar with gradients to hidden and weight, and [N] each token's negative log-likelihood
        in nats, float32, without a gradient. (float64 for float64 inputs.)
    """
    device = hidden_NE.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        hidden_NE, weight_VE = hidden_NE.to(dtype), weight_VE.to(dtype)
    with torch.autocast(device, enabled=False):
        return ChunkedLinearCrossEntropy.apply(hidden_NE, weight_VE, targets_N, weights_N, chunk)
