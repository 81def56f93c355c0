"""The SwiGLU gate: every backend against the definition in float64."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.ops.swiglu import BACKENDS, swiglu
from neo_lightning.ops.swiglu.reference import swiglu_reference

from .support import DEVICE, compare, skip_unless_it_runs

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Element by element: a few roundings; plain torch rounds silu(gate) to a half dtype before it multiplies."""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("shape", [(1, 3), (37, 111), (5, 1000)])
def test_values_and_gradients(backend, dtype, shape):
    skip_unless_it_runs(backend, dtype)
    generator = torch.Generator().manual_seed(0)
    rows, width = shape
    gate_up = (3 * torch.randn(rows, 2 * width, generator=generator)).to(DEVICE, dtype)
    dy = torch.randn(*shape, generator=generator).to(DEVICE, dtype)
    compare(lambda x: swiglu(x, backend=backend), (gate_up,), swiglu_reference, (dy,), BOUNDS[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_gates_are_the_identity_or_nothing(backend):
    skip_unless_it_runs(backend)
    gate_up = torch.tensor([[200.0, -200.0, 2.0, 2.0]], device=DEVICE, requires_grad=True)
    y = swiglu(gate_up, backend=backend)
    y.sum().backward()
    assert y.tolist() == [[400.0, 0.0]]
    assert gate_up.grad.tolist() == [[2.0, 0.0, 200.0, 0.0]]
