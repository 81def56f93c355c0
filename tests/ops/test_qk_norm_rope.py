"""Per-axis QK norm with rotations: every backend against the definition in float64, and the definition in words."""

from __future__ import annotations

import math

import pytest
import torch

from neo_lightning.ops.joint_linear import joint_linear
from neo_lightning.ops.qk_norm_rope import BACKENDS, projection_order, qk_norm_rope, rope_table
from neo_lightning.ops.qk_norm_rope.reference import qk_norm_rope_reference

from .support import DEVICE, compare, skip_unless_it_runs

EPS = 1e-6
BOUNDS = {torch.float64: 1e-7, torch.float32: 4e-6, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""The table of rotations is float32; half dtypes round results once to 11 or 8 bits (Triton's interpreter cuts off)."""


def positions(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 40, (n, 3), generator=generator, dtype=torch.int32).to(DEVICE)


def qk_inputs(n=11, heads=3, d=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, heads, 2 * d, generator=generator).to(DEVICE, dtype)
    w = [1 + 0.5 * torch.randn(size, generator=generator).to(DEVICE, dtype) for size in (d, d // 2, d // 2)]
    return [t.requires_grad_() for t in (x, *w)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(("n", "heads", "d"), [(1, 1, 16), (11, 3, 16), (20, 2, 24)])
def test_values_and_gradients(backend, dtype, n, heads, d):
    skip_unless_it_runs(backend, dtype)
    rope = rope_table(positions(n), d, 1e6, 1e4)
    dout = torch.randn(n, heads, 2 * d, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    own = lambda x, *w: qk_norm_rope(x, w, rope, EPS, backend=backend)  # noqa: E731
    exact = lambda x, *w: qk_norm_rope_reference(x, w, rope, EPS)  # noqa: E731
    compare(own, qk_inputs(n, heads, d, dtype), exact, (dout,), BOUNDS[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_projection_may_be_part_of_a_product(backend):
    """As the model gives it: its tokens lie further apart than their heads."""
    skip_unless_it_runs(backend)
    x, *weights = qk_inputs()
    rope = rope_table(positions(11), 16, 1e6, 1e4)
    product = torch.cat([x.flatten(1), torch.full((11, 5), float("nan"), device=DEVICE)], 1)
    part = product[:, :96].unflatten(1, (3, 32))
    assert not part.is_contiguous()
    dout = torch.randn(11, 3, 32, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    outcomes = []
    for given in (x, part):
        out = qk_norm_rope(given, tuple(weights), rope, EPS, backend=backend)
        outcomes.append((out, *torch.autograd.grad(out, (x, *weights), dout, retain_graph=True)))
    for whole, other in zip(*outcomes, strict=True):
        assert torch.equal(whole, other)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_gradients_by_finite_differences(backend):
    leaves = qk_inputs(n=4, heads=2, d=8, dtype=torch.float64)
    rope = rope_table(positions(4), 8, 1e4, 100.0)
    assert torch.autograd.gradcheck(lambda x, *w: qk_norm_rope(x, w, rope, 1e-3, backend=backend), leaves)


@pytest.mark.parametrize("backend", BACKENDS)
def test_frozen_norms_get_no_gradient(backend):
    skip_unless_it_runs(backend)
    x, *weights = qk_inputs()
    weights = tuple(w.detach() for w in weights)
    qk_norm_rope(x, weights, rope_table(positions(11), 16, 1e6, 1e4), EPS, backend=backend).sum().backward()
    assert x.grad is not None


def test_a_query_by_the_words_for_one_token():
    """Half rotation per axis: T pairs (i, i + 8), H and W pairs (i, i + 4), each by its own position and base."""
    generator = torch.Generator().manual_seed(3)
    x_t, x_hw = (torch.randn(1, 3, 16, generator=generator).to(DEVICE) for _ in range(2))
    w_t, w_h, w_w = (w.detach() for w in qk_inputs()[1:])
    t, h, w = 7, 3, 5
    rope = rope_table(torch.tensor([[t, h, w]], device=DEVICE), 16, 1e6, 1e4)
    out = qk_norm_rope(paired(x_t, x_hw), (w_t, w_h, w_w), rope, EPS)[0, 1].tolist()
    expected = []
    axes = ((x_t[0, 1], w_t, t, 1e6), (x_hw[0, 1, :8], w_h, h, 1e4), (x_hw[0, 1, 8:], w_w, w, 1e4))
    for x, weight, position, theta in axes:
        n = x.numel()
        x = x / math.sqrt(float(x.square().mean()) + EPS) * weight
        angle = [position * theta ** (-2 * k / n) for k in range(n // 2)]
        first = [float(x[k]) * math.cos(a) - float(x[k + n // 2]) * math.sin(a) for k, a in enumerate(angle)]
        second = [float(x[k + n // 2]) * math.cos(a) + float(x[k]) * math.sin(a) for k, a in enumerate(angle)]
        expected += [value for pair in zip(first, second, strict=True) for value in pair]
    assert out == pytest.approx(expected, abs=1e-5)


def paired(x_t, x_hw):
    """Projections [1, N, D] as released, laid out as the model lays out its queries."""
    heads, d = x_t.shape[1:]
    order = projection_order(heads, 1, d, torch.device(DEVICE))
    rows = torch.cat([x_t.view(-1, 1), x_hw.view(-1, 1), x_t.new_zeros(3 * d, 1)])  # a key and a value of one head
    return joint_linear(x_t.new_ones(1, 1), [rows], order)[:, : 2 * heads * d].view(1, heads, 2 * d)


def test_the_order_holds_every_row_once_and_its_inverse():
    index, inverse = projection_order(4, 2, 16, torch.device(DEVICE))
    assert index.sort().values.tolist() == list(range(2 * (4 + 2) * 16 + 2 * 16))
    assert torch.equal(index[inverse], torch.arange(index.numel(), device=DEVICE))
    assert index[:4].tolist() == [0, 8, 1, 9], "T of the first query head"
    assert index[16:20].tolist() == [64, 68, 65, 69], "its H, from the added projection"
    assert torch.equal(index[-32:], torch.arange(192, 224, device=DEVICE)), "values as they are"


def test_inner_products_depend_on_differences_of_positions_only():
    q, k = (qk_norm_rope(x, tuple(w), rope_table(p, 16, 1e4, 100.0), EPS) for x, w, p in moved((0, 0, 0)))
    q2, k2 = (qk_norm_rope(x, tuple(w), rope_table(p, 16, 1e4, 100.0), EPS) for x, w, p in moved((9, 2, 5)))
    assert torch.allclose((q * k).sum(-1), (q2 * k2).sum(-1), atol=1e-4)
    assert not torch.allclose(q, q2, atol=1e-2)


def moved(by):
    for seed in (0, 1):
        x, *w = (t.detach() for t in qk_inputs(seed=seed))
        yield x, w, positions(11, seed) + torch.tensor(by, device=DEVICE)


def test_an_axis_with_a_zero_norm_weight_is_silent_and_can_still_learn():
    x, w_t, w_h, w_w = qk_inputs()
    with torch.no_grad():
        w_h.zero_()
    out = qk_norm_rope(x, (w_t, w_h, w_w), rope_table(positions(11), 16, 1e6, 1e4), EPS)
    assert torch.all(out[..., 16:24] == 0)
    out.square().sum().backward()
    assert torch.all(w_h.grad == 0)
    again = qk_norm_rope(x, (w_t, w_h, w_w), rope_table(positions(11), 16, 1e6, 1e4), EPS)
    (again * torch.linspace(1, 2, 32, device=DEVICE)).sum().backward()
    assert torch.all(w_h.grad != 0)


def test_angles_stay_exact_at_far_positions():
    t = 35_999
    rope = rope_table(torch.tensor([[t, 0, 0]], device=DEVICE), 8, 1e6, 1e4)
    exact = [math.cos(t * 1e6 ** (-2 * k / 8)) for k in range(4)]
    assert rope.turn[0, :4, 0].tolist() == pytest.approx(exact, abs=1e-7)
