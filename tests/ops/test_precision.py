"""`torch.set_float32_matmul_precision` makes projections faster and leaves scores and sums of squares as they are.

Where a CPU or GPU has no units for it the setting changes nothing, and neither could these tests fail.
"""

from __future__ import annotations

import pytest
import torch

from neo_lightning.ops.interval_attention import interval_attention
from neo_lightning.ops.precision import full_float32
from neo_lightning.ops.qk_norm_rope import qk_norm_rope, rope_table

from .test_interval_attention import SCALE, inputs, layout
from .test_qk_norm_rope import EPS, positions, qk_inputs


@pytest.fixture(autouse=True)
def _restore():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def attended():
    start, limit = layout(111, 2)
    *leaves, do = inputs(111)
    q, k, v = (x.requires_grad_() for x in leaves)
    o = interval_attention(q, k, v, start, limit, scale=SCALE, backend="tiled")
    return o, *torch.autograd.grad(o, (q, k, v), do)


def rotated():
    x, *weights = qk_inputs(37, 4, 64)
    rope = rope_table(positions(37), 64, 1e6, 1e4)
    out = qk_norm_rope(x, tuple(weights), rope, EPS, backend="eager")
    return out, *torch.autograd.grad(out.square().sum(), (x, *weights))


@pytest.mark.parametrize("operation", [attended, rotated])
@pytest.mark.parametrize("allowed", ["high", "medium"])
def test_definitions_stay_float32(operation, allowed):
    torch.set_float32_matmul_precision("highest")
    exact = operation()
    torch.set_float32_matmul_precision(allowed)
    for a, b in zip(operation(), exact, strict=True):
        assert torch.equal(a, b)
    assert torch.get_float32_matmul_precision() == allowed


def test_an_error_inside_restores_what_was_allowed():
    torch.set_float32_matmul_precision("medium")
    with pytest.raises(ZeroDivisionError), full_float32():
        raise ZeroDivisionError
    assert torch.get_float32_matmul_precision() == "medium"
