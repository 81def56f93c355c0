"""Per-axis RMSNorm and rotary embedding of a query or key: two projections in, one [T | H | W] vector out.

The layout of D = 2 * head_dim is not [T | H | W] axis after axis but, for one single rotation over all of it,

    [ T first half | H first half | W first half | T second half | H second half | W second half ]

Queries and keys share it, so every inner product is the sum over the three axes that NEO defines (section 1 of the
paper: T rotates with rope_theta, H and W with rope_theta_hw; the pairs of an axis are (i, i + half)).
"""

from __future__ import annotations

from torch import Tensor

from neo_lightning.ops.qk_norm_rope.reference import qk_norm_rope_reference, rope_table

__all__ = ["qk_norm_rope", "rope_table"]


def qk_norm_rope(
    x_t: Tensor, x_hw: Tensor, weights: tuple[Tensor, Tensor, Tensor], rope: tuple[Tensor, Tensor], eps: float
) -> Tensor:
    """Normalise each axis with its own weight, then rotate it by its own position.

    Args:
        x_t: [T, N, head_dim], output of the backbone's projection, N heads.
        x_hw: [T, N, head_dim], output of the added one: first half H, second half W.
        weights: RMSNorm weights of T [head_dim], H and W [head_dim / 2].
        rope: (cos, sin), each [T, head_dim], from `rope_table`.
        eps: of RMSNorm.

    Returns:
        [T, N, 2 * head_dim] in the dtype of `x_t`, in the layout above.
    """
    return qk_norm_rope_reference(x_t, x_hw, weights, rope, eps)
