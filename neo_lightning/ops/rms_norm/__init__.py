"""RMSNorm: x / sqrt(mean(x^2) + eps) * weight over the last axis (Qwen3, modeling_qwen3.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from neo_lightning.ops.rms_norm.eager import EagerRMSNorm
from neo_lightning.ops.rms_norm.reference import rms_norm_reference

__all__ = ["rms_norm", "rms_norm_reference"]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Normalise the last axis.

    Args:
        x: [..., E]; weight: [E]; eps: added to the mean square.

    Returns:
        [..., E] in the dtype of `x`; computed in float32 (float64 for float64 inputs).
    """
    with torch.autocast(x.device.type, enabled=False):
        return EagerRMSNorm.apply(x.reshape(-1, x.shape[-1]), weight, eps).view(x.shape)
