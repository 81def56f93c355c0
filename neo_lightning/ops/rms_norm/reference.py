"""RMSNorm as defined."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `rms_norm`."""
    high = x.to(torch.promote_types(x.dtype, torch.float32))
    normed = high * torch.rsqrt(high.square().mean(-1, keepdim=True) + eps)
    return (normed * weight).to(x.dtype)


def add_rms_norm_reference(x: Tensor, delta: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `add_rms_norm`."""
    total = x + delta
    return total, rms_norm_reference(total, weight, eps)
