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


def compare(function, leaves, exact_function, gradients, bound):
    """Outputs and all gradients of `function` against those of `exact_function` on the same values in float64.

    Args: leaves, tensors of which those in a float dtype get gradients; gradients, of the outputs; bound, the largest
    error allowed, relative to the largest exact value of a result (at least 1).
    """
    outcomes = []
    for fn, dtype in ((function, leaves[0].dtype), (exact_function, torch.float64)):
        inputs = [x.detach().to(dtype).requires_grad_() for x in leaves]
        outputs = fn(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        assert all(y.dtype == dtype for y in outputs)
        given = [g.to(dtype) for g in gradients]
        outcomes.append((*(y.detach() for y in outputs), *torch.autograd.grad(outputs, inputs, given)))
    for i, (a, b) in enumerate(zip(*outcomes, strict=True)):
        error = (a.double() - b).abs().max()
        assert error <= bound * max(1.0, float(b.abs().max())), f"result {i}: {error}"
