"""The gate of a SwiGLU MLP as defined."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def swiglu_reference(gate: Tensor, up: Tensor) -> Tensor:
    """See `swiglu`."""
    high = torch.promote_types(gate.dtype, torch.float32)
    return (F.silu(gate.to(high)) * up.to(high)).to(gate.dtype)
