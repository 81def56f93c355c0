"""RMSNorm, alone and behind a sum: every backend against the definition in float64."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.ops.rms_norm import BACKENDS, add_rms_norm, rms_norm, rms_norm_reference

from .support import DEVICE, compare, skip_unless_it_runs

EPS = 1e-6
BOUNDS = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Float32 sums of at most 40 rows; half dtypes round results once to 11 or 8 bits (Triton's interpreter cuts off)."""


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("rows", "width", "size"), [(7, 33, 1e-4), (40, 128, 1.0), (1, 96, 300.0)])
def test_values_and_gradients(backend, dtype, rows, width, size):
    skip_unless_it_runs(backend, dtype)
    x, delta, weight = (t.to(dtype) for t in (size * draw(rows, width), draw(rows, width, seed=1), draw(width, seed=2)))
    dy, dtotal = draw(rows, width, seed=3), draw(rows, width, seed=4)
    if dtype != torch.float16 or size > 1e-3:  # there a gradient of about 1 / size overflows
        exact = lambda x, w: rms_norm_reference(x, w, EPS)  # noqa: E731
        compare(lambda x, w: rms_norm(x, w, EPS, backend=backend), (x, weight), exact, (dy,), BOUNDS[dtype])

    def exact_sum(x, delta, w):
        total = x + delta
        if dtype in (torch.float16, torch.bfloat16):  # the residual stream is kept in its dtype
            total = total + (total.to(dtype).double() - total).detach()
        return total, rms_norm_reference(total, w, EPS)

    own = lambda x, d, w: add_rms_norm(x, d, w, EPS, backend=backend)  # noqa: E731
    compare(own, (x, delta, weight), exact_sum, (dtotal, dy), BOUNDS[dtype])


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_gradients_by_finite_differences(backend):
    x, delta, w = (draw(*shape).double().requires_grad_() for shape in ((3, 5, 8), (3, 5, 8), (8,)))
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3, backend=backend), (x, w))
    assert torch.autograd.gradcheck(lambda x, d, w: add_rms_norm(x, d, w, 1e-3, backend=backend), (x, delta, w))


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_weights_get_no_gradient(backend):
    skip_unless_it_runs(backend)
    x, w = draw(4, 8).requires_grad_(), torch.ones(8, device=DEVICE)
    sum(
        y.sum() for y in (rms_norm(x, w, EPS, backend=backend), *add_rms_norm(x, x, w, EPS, backend=backend))
    ).backward()
    assert x.grad is not None
    assert w.grad is None


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="backend 'tritn' is unknown; there are: auto, reference, eager, triton"):
        rms_norm(draw(2, 4), draw(4), EPS, backend="tritn")
