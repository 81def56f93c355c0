"""The definition: all logits at once, then torch's own cross-entropy."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_cross_entropy_reference(
    hidden_NE: Tensor, weight_VE: Tensor, targets_N: Tensor, weights_N: Tensor
) -> tuple[Tensor, Tensor]:
    """See `linear_cross_entropy`."""
    logits = F.linear(hidden_NE, weight_VE)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nll = F.cross_entropy(logits, targets_N, reduction="none")
    return (nll * weights_N).sum(), nll.detach()
