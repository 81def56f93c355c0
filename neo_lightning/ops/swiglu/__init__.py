"""The gate of a SwiGLU MLP: silu(gate) * up (Qwen3, modeling_qwen3.py)."""

from __future__ import annotations

from torch import Tensor

from neo_lightning.ops.backends import choose
from neo_lightning.ops.swiglu.eager import swiglu_eager
from neo_lightning.ops.swiglu.reference import swiglu_reference
from neo_lightning.ops.swiglu.triton import swiglu_triton

__all__ = ["BACKENDS", "swiglu"]

BACKENDS = {"reference": swiglu_reference, "eager": swiglu_eager, "triton": swiglu_triton}


def swiglu(gate_up: Tensor, *, backend: str = "auto") -> Tensor:
    """silu(gate) * up, element by element.

    Args:
        gate_up: [T, 2 F], the columns [gate | up].
        backend: "auto" or a name in BACKENDS; triton takes no float64.

    Returns:
        [T, F] of the same dtype.
    """
    return choose(BACKENDS, backend, gate_up)(gate_up)
