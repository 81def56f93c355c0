"""Per-axis RMSNorm and rotary embedding of a query or key: two projections in, one [T | H | W] vector out.

The three axes are D = head_dim, D / 2 and D / 2 wide. Each is normalised alone, and each is rotated alone, its pairs
being (i, i + half of its width): T by t with base rope_theta, H by h and W by w with base rope_theta_hw. The inner
product of a query and a key is then the sum over the axes that NEO defines (NEO paper, native RoPE).
"""

from __future__ import annotations

import torch
from torch import Tensor

from neo_lightning.ops.backends import choose
from neo_lightning.ops.qk_norm_rope.eager import qk_norm_rope_eager
from neo_lightning.ops.qk_norm_rope.reference import Rope, qk_norm_rope_reference, rope_table
from neo_lightning.ops.qk_norm_rope.triton import qk_norm_rope_triton

__all__ = ["BACKENDS", "Rope", "qk_norm_rope", "rope_table"]

BACKENDS = {"reference": qk_norm_rope_reference, "eager": qk_norm_rope_eager, "triton": qk_norm_rope_triton}


def qk_norm_rope(
    x_t: Tensor,
    x_hw: Tensor,
    weights: tuple[Tensor, Tensor, Tensor],
    rope: Rope,
    eps: float,
    *,
    backend: str = "auto",
) -> Tensor:
    """Normalise each axis with its own weight, then rotate it by its own position.

    Args:
        x_t: [T, N, head_dim], output of the backbone's projection, N heads.
        x_hw: [T, N, head_dim], output of the added one: first half H, second half W.
        weights: RMSNorm weights of T [head_dim], H and W [head_dim / 2].
        rope: from `rope_table`.
        eps: of RMSNorm.
        backend: "auto" or a name in BACKENDS; triton takes no float64.

    Returns:
        [T, N, 2 * head_dim] ([T | H | W]) in the dtype of `x_t`; computed in float32 (float64 for float64 inputs).
    """
    with torch.autocast(x_t.device.type, enabled=False):
        return choose(BACKENDS, backend, x_t)(x_t, x_hw, weights, rope, eps)
