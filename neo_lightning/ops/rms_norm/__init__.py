"""RMSNorm: x / sqrt(mean(x^2) + eps) * weight over the last axis (Qwen3, modeling_qwen3.py), alone or behind a sum."""

from __future__ import annotations

from torch import Tensor

from neo_lightning.ops.backends import choose, without_autocast
from neo_lightning.ops.rms_norm.eager import add_rms_norm_eager, rms_norm_eager
from neo_lightning.ops.rms_norm.reference import add_rms_norm_reference, rms_norm_reference
from neo_lightning.ops.rms_norm.triton import add_rms_norm_triton, rms_norm_triton

__all__ = ["BACKENDS", "add_rms_norm", "rms_norm", "rms_norm_reference"]

BACKENDS = {"reference": rms_norm_reference, "eager": rms_norm_eager, "triton": rms_norm_triton}
_ADDING = {"reference": add_rms_norm_reference, "eager": add_rms_norm_eager, "triton": add_rms_norm_triton}


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, backend: str = "auto") -> Tensor:
    """Normalise the last axis.

    Args:
        x: [..., E]; weight: [E]; eps: added to the mean square.
        backend: "auto" or a name in BACKENDS; triton takes no float64.

    Returns:
        [..., E] in the dtype of `x`; computed in float32 (float64 for float64 inputs).
    """
    with without_autocast(x.device):
        return choose(BACKENDS, backend, x)(x, weight, eps)


def add_rms_norm(
    x: Tensor, delta: Tensor, weight: Tensor, eps: float, *, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Add to the residual stream, then normalise: one pass, and one gradient for both summands.

    Args:
        x, delta: [..., E] of one dtype; the others as in `rms_norm`.

    Returns:
        x + delta and its norm, [..., E] each in the dtype of `x`.
    """
    with without_autocast(x.device):
        return choose(_ADDING, backend, x)(x, delta, weight, eps)
