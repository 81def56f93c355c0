"""Several projections as one product: against separate ones in float64, frozen weights, sharded memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from neo_lightning.ops.coded import decode, encode
from neo_lightning.ops.joint_linear import Order, joint_linear

from .support import DEVICE, compare

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Sums of up to 40 products, rounded once."""
WIDTHS = (24, 8, 16)


def leaves(dtype=torch.float32, rows=40):
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, 12), *((width, 12) for width in WIDTHS))
    return [torch.randn(shape, generator=generator).to(DEVICE, dtype) for shape in shapes]


def separate(x, *weights):
    return torch.cat([F.linear(x, weight) for weight in weights], 1)


def shuffled():
    index = torch.randperm(sum(WIDTHS), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    return Order(index, index.argsort())


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_values_and_gradients(dtype, ordered):
    dy = torch.randn(40, sum(WIDTHS), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    order = shuffled() if ordered else None
    exact = (lambda x, *w: separate(x, *w)[:, order.rows]) if order else separate
    compare(lambda x, *w: joint_linear(x, w, order), leaves(dtype), exact, (dy,), BOUNDS[dtype])


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("frozen", [(0,), (0, 2), (1,), (0, 1, 2)])
def test_frozen_weights_cost_no_product(frozen, ordered):
    x, *weights = (leaf.requires_grad_(i - 1 not in frozen) for i, leaf in enumerate(leaves()))
    y = joint_linear(x, weights, shuffled() if ordered else None)
    with FlopCounterMode(display=False) as counter:
        y.square().sum().backward()
    trained = sum(width for i, width in enumerate(WIDTHS) if i not in frozen)
    assert counter.get_total_flops() == 2 * 40 * 12 * (sum(WIDTHS) + trained)
    expected = leaves()
    for i, (weight, own) in enumerate(zip(weights, expected[1:], strict=True)):
        if i in frozen:
            assert weight.grad is None
        else:
            alone = own.requires_grad_()
            F.linear(expected[0], alone).square().sum().backward()
            assert torch.allclose(weight.grad, alone.grad, rtol=1e-5, atol=1e-5)  # other sums of the same products


def test_the_joint_weight_is_not_kept_for_the_backward_pass():
    """Sharded layers give their gathered weights back between the passes; a copy would stay."""
    x, *weights = (leaf.requires_grad_() for leaf in leaves())
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        joint_linear(x, weights)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for t in (x, *weights)}


def test_autocast_decides_the_type():
    x, *weights = (leaf.requires_grad_() for leaf in leaves())
    with torch.autocast(DEVICE, torch.bfloat16):
        y = joint_linear(x, weights)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert all(leaf.grad.dtype == torch.float32 for leaf in (x, *weights))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("coded", [(0, 1, 2), (1,)], ids=["all coded", "one beside trained ones"])
@pytest.mark.parametrize("grad", [True, False])
def test_coded_weights_are_their_floats(coded, ordered, grad, bits):
    """To the bit in values and in the gradients of what is trained beside them, with gradients and without."""
    floats, order = leaves(), shuffled() if ordered else None
    dy = torch.randn(40, sum(WIDTHS), generator=torch.Generator().manual_seed(1)).to(DEVICE)
    codes = {i: encode(floats[1 + i], bits) for i in coded}
    for i, code in codes.items():
        floats[1 + i] = decode(code, torch.float32)
    found = []
    for mixed in (True, False):
        x, *weights = (leaf.clone() for leaf in floats)
        for i, leaf in enumerate((x, *weights)):
            leaf.requires_grad_(grad and i - 1 not in coded)
        y = joint_linear(x, [codes[i] if mixed and i in codes else w for i, w in enumerate(weights)], order)
        if grad:
            y.backward(dy)
        found.append([y, x.grad, *(weight.grad for i, weight in enumerate(weights) if i not in coded)])
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("bits", [8, 4])
def test_codes_are_what_is_kept_of_coded_weights(bits):
    x, *weights = leaves()
    codes, kept = [encode(weight, bits) for weight in weights], []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        joint_linear(x.requires_grad_(), codes)
    assert {t.data_ptr() for t in kept} == {t.data_ptr() for code in codes for t in code}
