"""The chunked loss against all logits at once in float64: loss, per-token losses and both gradients."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.ops.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_reference


def inputs(n, dtype=torch.float32, vocabulary=37, width=12):
    generator = torch.Generator().manual_seed(n)
    hidden = torch.randn(n, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (n,), generator=generator)
    weights = torch.rand(n, generator=generator)
    return hidden, weight, targets, weights


@pytest.mark.parametrize("n", [1, 7, 16, 23])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_loss_and_gradients(n, dtype, bound):
    hidden, weight, targets, weights = inputs(n, dtype)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    loss, nll = linear_cross_entropy(hidden, weight, targets, weights, chunk=8)
    expected, expected_nll = linear_cross_entropy_reference(*exact, targets, weights.double())
    assert loss.dtype == torch.promote_types(dtype, torch.float32)
    assert not nll.requires_grad
    ours = (loss, nll, *torch.autograd.grad(3 * loss, (hidden, weight)))
    theirs = (expected, expected_nll, *torch.autograd.grad(3 * expected, exact))
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.detach(), b.detach()
        assert (a.double() - b).abs().max() <= bound * max(1.0, float(b.abs().max()))


def test_chunks_do_not_change_the_result():
    hidden, weight, targets, weights = inputs(23, torch.float64)
    one = linear_cross_entropy(hidden, weight, targets, weights, chunk=100)
    many = linear_cross_entropy(hidden, weight, targets, weights, chunk=5)
    assert torch.allclose(one[0], many[0], rtol=1e-12)
    assert torch.allclose(one[1], many[1], rtol=1e-12)


def test_no_supervised_token_is_a_loss_of_zero_with_gradients_of_zero():
    hidden, weight, targets, weights = inputs(4)
    loss, nll = linear_cross_entropy(hidden[:0], weight, targets[:0], weights[:0])
    loss.backward()
    assert loss == 0
    assert nll.numel() == 0
    assert torch.all(weight.grad == 0)
    assert torch.all(hidden.grad == 0)


def test_weight_zero_leaves_no_trace():
    hidden, weight, targets, weights = inputs(9)
    weights[4:] = 0
    loss, _ = linear_cross_entropy(hidden, weight, targets, weights)
    loss.backward()
    assert torch.all(hidden.grad[4:] == 0)
    assert torch.all(hidden.grad[:4].abs().sum(1) > 0)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_side_gets_no_gradient(frozen):
    leaves = list(inputs(5))
    leaves[frozen].requires_grad_(False)
    linear_cross_entropy(*leaves)[0].backward()
    assert leaves[frozen].grad is None
    assert leaves[1 - frozen].grad is not None


def test_autocast_multiplies_in_its_dtype_and_keeps_float32_losses():
    hidden, weight, targets, weights = inputs(9)
    with torch.autocast("cpu", torch.bfloat16):
        loss, nll = linear_cross_entropy(hidden, weight, targets, weights)
    loss.backward()
    exact, _ = linear_cross_entropy(hidden, weight, targets, weights)
    assert loss.dtype == nll.dtype == hidden.grad.dtype == torch.float32
    assert loss != exact
    assert loss.item() == pytest.approx(exact.item(), rel=1e-2)
