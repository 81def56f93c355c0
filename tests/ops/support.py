"""What runs where: the same tests take every backend, on a GPU where there is one.

Triton's kernels run on a GPU, or in its interpreter on the CPU. The interpreter has to be chosen before the kernels are
imported (TRITON_INTERPRET=1), so `test_interpreter.py` runs this folder's tests a second time, in a process of its own.
"""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

NEEDS = {
    "triton": ("a GPU, or Triton's interpreter (see test_interpreter.py)", DEVICE == "cuda" or INTERPRETED),
    "flex": ("a GPU: on a CPU FlexAttention has no backward pass", DEVICE == "cuda"),
    "flash": ("a GPU and flash-attn", DEVICE == "cuda" and importlib.util.find_spec("flash_attn") is not None),
}
"""Backend -> what it needs, and whether that is here. Every other backend runs everywhere."""


def skip_unless_it_runs(backend: str, dtype: torch.dtype = torch.float32) -> None:
    """Skip a test where the backend cannot run, with the reason."""
    needed, here = NEEDS.get(backend, ("", True))
    if not here:
        pytest.skip(f"{backend} needs {needed}")
    if backend in NEEDS and dtype == torch.float64:
        pytest.skip(f"{backend} takes no float64")
    if backend == "triton" and DEVICE == "cpu" and dtype == torch.bfloat16:
        pytest.skip("Triton's interpreter multiplies the bit patterns of bfloat16")
    if backend == "flash" and dtype == torch.float32:
        pytest.skip("flash-attn takes half dtypes only")
