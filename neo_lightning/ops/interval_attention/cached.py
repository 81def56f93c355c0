"""Attention of one new token per sequence to its key-value cache: the decoding step.

One batched matmul per side, with the heads of a group folded into its rows: nothing is expanded or copied, and each
cached key and value is read once. benchmarks/decode.py measures it against SDPA.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cached_attention(q_BHD: Tensor, k_BKSD: Tensor, v_BKSE: Tensor, visible_BS: Tensor, *, scale: float) -> Tensor:
    """softmax(scale * q k^T over the visible places) v.

    Args:
        q_BHD: [B, H, D], one query token per sequence.
        k_BKSD, v_BKSE: [B, K, S, D] and [B, K, S, E] caches, padded to S places.
        visible_BS: [B, S] bool, places that hold a token of the sequence (at least one each).
        scale: of the scores.

    Returns:
        o_BHE: [B, H, E] in the values' dtype.
    """
    b, h, d = q_BHD.shape
    heads = k_BKSD.shape[1]
    q = q_BHD.view(b, heads, h // heads, d)
    if q.element_size() == 2:  # keys first: with a part of a cache on the right, a half product copies it on a CPU
        s_BKGS = (k_BKSD @ q.transpose(-1, -2)).transpose(-1, -2)
    else:
        s_BKGS = q @ k_BKSD.transpose(-1, -2)
    s_BKGS = s_BKGS.to(torch.promote_types(q.dtype, torch.float32)) * scale
    p_BKGS = s_BKGS.masked_fill(~visible_BS[:, None, None], float("-inf")).softmax(-1)
    return (p_BKGS.to(v_BKSE.dtype) @ v_BKSE).reshape(b, h, -1)
