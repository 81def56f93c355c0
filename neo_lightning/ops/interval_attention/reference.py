"""The definition of interval attention: a dense mask and one softmax. Memory grows with T * T; any float dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def prepare(start: Tensor, limit: Tensor) -> Tensor:
    """[T, T] bool: row i, column j is true where token i sees token j."""
    j = torch.arange(start.numel(), device=start.device)
    return (j >= start[:, None]) & (j < limit[:, None])


def attend(q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, mask: Tensor, scale: float) -> Tensor:
    """See `interval_attention`."""
    high = torch.promote_types(q_THD.dtype, torch.float32)
    group = q_THD.shape[1] // k_TKD.shape[1]
    with torch.autocast(q_THD.device.type, enabled=False):
        q, k, v = q_THD.to(high), k_TKD.to(high), v_TKE.to(high)
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        s_HTS = torch.einsum("thd,shd->hts", q, k) * scale
        p_HTS = s_HTS.masked_fill(~mask, float("-inf")).softmax(-1)
        return torch.einsum("hts,she->the", p_HTS, v).to(v_TKE.dtype)
