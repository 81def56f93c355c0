"""Per-axis RMSNorm and rotary embedding of queries or keys: [T | H | W] vectors in, the same turned.

The three axes are D = head_dim, D / 2 and D / 2 wide. Each is normalised alone, and each is rotated alone, its pairs
being (i, i + half of its width) of the projections' rows and neighbours here (`reference.py`): T by t with base
rope_theta, H by h and W by w with base rope_theta_hw. The inner product of a query and a key is then the sum over the
axes that NEO defines (NEO paper, native RoPE).
"""

from __future__ import annotations

from torch import Tensor

from neo_lightning.ops.backends import choose, without_autocast
from neo_lightning.ops.qk_norm_rope.eager import few_norm_rope, qk_norm_rope_eager
from neo_lightning.ops.qk_norm_rope.reference import (
    Rope,
    paired_weights,
    projection_order,
    qk_norm_rope_reference,
    rope_table,
)
from neo_lightning.ops.qk_norm_rope.triton import qk_norm_rope_triton

__all__ = ["BACKENDS", "Rope", "few_norm_rope", "paired_weights", "projection_order", "qk_norm_rope", "rope_table"]

BACKENDS = {"reference": qk_norm_rope_reference, "eager": qk_norm_rope_eager, "triton": qk_norm_rope_triton}


def qk_norm_rope(
    x: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: Rope, eps: float, *, backend: str = "auto"
) -> Tensor:
    """Normalise each axis with its own weight, then rotate it by its own position.

    Args:
        x: [T, N, 2 * head_dim], N heads, paired columns as `projection_order` makes them; a token's heads lie in one
            piece, tokens may lie further apart.
        weights: RMSNorm weights of T [head_dim], H and W [head_dim / 2], in the released order.
        rope: from `rope_table`.
        eps: of RMSNorm.
        backend: "auto" or a name in BACKENDS; triton takes no float64.

    Returns:
        [T, N, 2 * head_dim] in the dtype of `x`; computed in float32 (float64 for float64 inputs).
    """
    with without_autocast(x.device):
        return choose(BACKENDS, backend, x)(x, weights, rope, eps)
