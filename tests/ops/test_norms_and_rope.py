"""RMSNorm and the per-axis QK norm with rotations: against the definitions, gradients by finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from neo_lightning.ops.qk_norm_rope import qk_norm_rope, qk_norm_rope_reference, rope_table
from neo_lightning.ops.rms_norm import rms_norm, rms_norm_reference

EPS = 1e-6


def positions(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 40, (n, 3), generator=generator, dtype=torch.int32)


def qk_inputs(n=11, heads=3, d=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(n, heads, d, generator=generator).to(dtype) for _ in range(2)]
    w = [1 + 0.5 * torch.randn(size, generator=generator).to(dtype) for size in (d, d // 2, d // 2)]
    return [t.requires_grad_() for t in (*x, *w)]


def test_rms_norm_gradients_by_finite_differences():
    x = torch.randn(3, 5, 8, dtype=torch.float64, requires_grad=True)
    w = torch.randn(8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), (x, w))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
def test_rms_norm_is_its_definition_in_float64(dtype, bound, size):
    generator = torch.Generator().manual_seed(0)
    x, w, dy = (torch.randn(shape, generator=generator).to(dtype) for shape in ((7, 33), (33,), (7, 33)))
    x = (x * size).detach()
    outcome = []
    for fn, cast in ((rms_norm, dtype), (rms_norm_reference, torch.float64)):
        leaves = x.to(cast).requires_grad_(), w.to(cast).requires_grad_()
        y = fn(*leaves, EPS)
        assert y.dtype == cast
        outcome.append((y, *torch.autograd.grad(y, leaves, dy.to(cast))))
    for name, a, b in zip(("y", "dx", "dw"), *outcome, strict=True):
        assert (a.double() - b).abs().max() <= bound * b.abs().max() * 3, name


def test_rms_norm_of_frozen_weights_gives_no_gradient_to_them():
    x, w = torch.randn(4, 8, requires_grad=True), torch.ones(8)
    rms_norm(x, w, EPS).sum().backward()
    assert x.grad is not None
    assert w.grad is None


def test_qk_norm_rope_gradients_by_finite_differences():
    leaves = qk_inputs(n=4, heads=2, d=8, dtype=torch.float64)
    rope = rope_table(positions(4), 8, 1e4, 100.0)
    assert torch.autograd.gradcheck(lambda a, b, *w: qk_norm_rope(a, b, w, rope, 1e-3), leaves)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
def test_qk_norm_rope_is_its_definition(dtype, bound):
    leaves = qk_inputs(dtype=dtype)
    exact = [x.detach().double().requires_grad_() for x in leaves]
    rope = rope_table(positions(11), 16, 1e6, 1e4)
    dy = torch.randn(11, 3, 32)
    outcome = []
    for fn, inputs in ((qk_norm_rope, leaves), (qk_norm_rope_reference, exact)):
        y = fn(inputs[0], inputs[1], tuple(inputs[2:]), rope, EPS)
        assert y.dtype == inputs[0].dtype
        outcome.append((y, *torch.autograd.grad(y, inputs, dy.to(y.dtype))))
    for i, (a, b) in enumerate(zip(*outcome, strict=True)):
        assert (a.double() - b).abs().max() <= bound * b.abs().max(), f"result {i}"


def test_qk_norm_rope_by_the_words_for_one_token():
    """Half rotation per axis: T pairs (i, i + 8), H and W pairs (i, i + 4), each by its own position and base."""
    x_t, x_hw, w_t, w_h, w_w = (x.detach()[:1] if i < 2 else x.detach() for i, x in enumerate(qk_inputs()))
    t, h, w = 7, 3, 5
    rope = rope_table(torch.tensor([[t, h, w]]), 16, 1e6, 1e4)
    out = qk_norm_rope(x_t, x_hw, (w_t, w_h, w_w), rope, EPS)[0, 1].tolist()
    expected = []
    axes = ((x_t[0, 1], w_t, t, 1e6), (x_hw[0, 1, :8], w_h, h, 1e4), (x_hw[0, 1, 8:], w_w, w, 1e4))
    for x, weight, position, theta in axes:
        n = x.numel()
        x = x / math.sqrt(float(x.square().mean()) + EPS) * weight
        angle = [position * theta ** (-2 * k / n) for k in range(n // 2)]
        first = [float(x[k]) * math.cos(a) - float(x[k + n // 2]) * math.sin(a) for k, a in enumerate(angle)]
        second = [float(x[k + n // 2]) * math.cos(a) + float(x[k]) * math.sin(a) for k, a in enumerate(angle)]
        expected += first + second
    assert out == pytest.approx(expected, abs=1e-5)


def test_inner_products_depend_on_differences_of_positions_only():
    q, k = (qk_norm_rope(x, y, tuple(w), rope_table(p, 16, 1e4, 100.0), EPS) for x, y, w, p in moved((0, 0, 0)))
    q2, k2 = (qk_norm_rope(x, y, tuple(w), rope_table(p, 16, 1e4, 100.0), EPS) for x, y, w, p in moved((9, 2, 5)))
    assert torch.allclose((q * k).sum(-1), (q2 * k2).sum(-1), atol=1e-4)
    assert not torch.allclose(q, q2, atol=1e-2)


def moved(by):
    for seed in (0, 1):
        x, y, *w = (t.detach() for t in qk_inputs(seed=seed))
        yield x, y, w, positions(11, seed) + torch.tensor(by)


def test_an_axis_with_a_zero_norm_weight_is_silent_and_can_still_learn():
    x_t, x_hw, w_t, w_h, w_w = qk_inputs()
    with torch.no_grad():
        w_h.zero_()
    out = qk_norm_rope(x_t, x_hw, (w_t, w_h, w_w), rope_table(positions(11), 16, 1e6, 1e4), EPS)
    assert torch.all(out[..., 16:24] == 0)
    out.square().sum().backward()
    assert torch.all(w_h.grad == 0)
    again = qk_norm_rope(x_t, x_hw, (w_t, w_h, w_w), rope_table(positions(11), 16, 1e6, 1e4), EPS)
    (again * torch.linspace(1, 2, 32)).sum().backward()
    assert torch.all(w_h.grad != 0)


def test_angles_stay_exact_at_far_positions():
    t = 35_999
    rope = rope_table(torch.tensor([[t, 0, 0]]), 8, 1e6, 1e4)
    exact = [math.cos(t * 1e6 ** (-2 * k / 8)) for k in range(4)]
    assert rope.cos[0, :4].tolist() == pytest.approx(exact, abs=1e-7)
