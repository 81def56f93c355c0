"""The gate of a SwiGLU MLP in torch's own operations; autograd keeps gate, up and silu(gate).

Writing the backward pass out saves nothing here: torch's three passes are as few as can be without a kernel.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def swiglu_eager(gate: Tensor, up: Tensor) -> Tensor:
    """See `swiglu`."""
    return F.silu(gate) * up
