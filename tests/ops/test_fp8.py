"""8-bit products: against their definition in float64, what a scale per row buys, and through `joint_linear`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from neo_lightning.ops.fp8 import mm_fp8, why_not
from neo_lightning.ops.joint_linear import Order, joint_linear

from .support import DEVICE

if reason := why_not(torch.device(DEVICE)):
    pytest.skip(reason, allow_module_level=True)

ROUNDED_ONCE = 2.0**-8
"""Of a bfloat16 result."""


def matrix(rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator).to(DEVICE, dtype)


def nearest_e4m3(x: torch.Tensor) -> torch.Tensor:
    """float64 values rounded to 3 bits of mantissa, ties to even, with the smallest step 2^-9: without torch's cast."""
    exponent = torch.frexp(x)[1] - 1
    step = torch.ldexp(torch.ones_like(x), exponent.clamp_min(-6) - 3)
    return torch.round(x / step) * step


def definition(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The products that the module's docstring defines, in float64; scales are float32 as there."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        scale = (x.abs().amax(1, keepdim=True).float() / 448).double()
        return nearest_e4m3((x.double() / scale).float().double()) * scale

    return rounded(a) @ rounded(b).t()


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 37, 64])
def test_the_definition(rows: int, dtype: torch.dtype) -> None:
    a, b = matrix(rows, 96, 0, dtype), matrix(48, 96, 1, dtype)
    found, expected = mm_fp8(a, b), definition(a, b)
    assert found.dtype == dtype
    # float32 sums of 96 products, and the result rounded once
    assert torch.all((found.double() - expected).abs() <= ROUNDED_ONCE * expected.abs() + 1e-4)


def test_the_error_is_that_of_8_bits() -> None:
    a, b = matrix(128, 512, 0), matrix(256, 512, 1)
    error = relative(mm_fp8(a, b), a.double() @ b.double().t())
    assert 0.02 < error < 0.05  # two factors, each with three bits of mantissa


def test_an_outlier_costs_no_other_row_its_precision() -> None:
    a, b = matrix(32, 64, 0), matrix(16, 64, 1)
    loud = a.clone()
    loud[5] *= 1e6
    loud[7, 3] = 1e30
    others = [i for i in range(32) if i not in (5, 7)]
    assert torch.equal(mm_fp8(loud, b)[others], mm_fp8(a, b)[others])


@pytest.mark.parametrize("exponent", [-100, -20, 60])
def test_the_size_of_a_row_does_not_matter(exponent: int) -> None:
    """Gradients may be tiny, and are not lost."""
    a, b = matrix(32, 64, 0), matrix(16, 64, 1)
    assert torch.equal(mm_fp8(a * 2.0**exponent, b), mm_fp8(a, b) * 2.0**exponent)


def test_rows_of_zeros_give_zeros_and_what_is_not_finite_shows() -> None:
    a, b = matrix(32, 64, 0), matrix(16, 64, 1)
    a[3] = 0
    a[4, 7], a[5, 8] = float("nan"), float("inf")
    out = mm_fp8(a, b)
    assert torch.equal(out[3], torch.zeros(16, device=DEVICE))
    assert out[4:6].isnan().all()
    assert out[:4].isfinite().all()
    assert out[6:].isfinite().all()


def test_operands_lie_as_a_gpus_units_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch checks layouts and scales on fake CUDA tensors, but only for the older function of the same product."""
    older = torch._scaled_mm

    def checked(a: Any, b: Any, a_scale: Any, _: Any, b_scale: Any, __: Any, *, output_dtype: Any) -> torch.Tensor:
        with pytest.raises(RuntimeError, match="col_major"):
            older(a, b.contiguous(), a_scale, b_scale, out_dtype=output_dtype)
        return older(a, b, a_scale, b_scale, out_dtype=output_dtype)

    monkeypatch.setattr(torch.nn.functional, "scaled_mm", checked)
    with FakeTensorMode():
        for dtype in (torch.float32, torch.bfloat16):
            x, weight = torch.empty(40, 64, device="cuda", dtype=dtype), torch.empty(32, 64, device="cuda", dtype=dtype)
            y = mm_fp8(x, weight)
            dx = mm_fp8(y, weight.t())
            assert (y.shape, y.dtype, y.device.type) == ((40, 32), dtype, "cuda")
            assert (dx.shape, dx.dtype, dx.device.type) == ((40, 64), dtype, "cuda")


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("frozen", [(), (0,), (0, 1)])
def test_joint_linear_and_its_gradients(frozen: tuple[int, ...], ordered: bool) -> None:
    """y and the gradient to x are 8-bit products; those of the weights are what they are without."""
    leaves = [matrix(40, 64, 0), matrix(32, 64, 1), matrix(16, 64, 2)]
    index = torch.randperm(48, generator=torch.Generator().manual_seed(3)).to(DEVICE)
    order = Order(index, index.argsort()) if ordered else None
    dy = matrix(40, 48, 4)
    results = []
    for fp8 in (False, True):
        x, *weights = (leaf.clone().requires_grad_(i - 1 not in frozen) for i, leaf in enumerate(leaves))
        y = joint_linear(x, weights, order, fp8=fp8)
        y.backward(dy)
        results.append((y.detach(), x.grad, *(weight.grad for weight in weights)))
    (y, dx, *dws), (y8, dx8, *dws8) = results
    together = torch.cat(leaves[1:])[index] if ordered else torch.cat(leaves[1:])
    assert torch.equal(y8, mm_fp8(leaves[0], together))
    assert dx8 is not None
    assert torch.equal(dx8, mm_fp8(dy, together.t()))
    assert 0.01 < relative(y8, y) < 0.05
    assert 0.01 < relative(dx8, dx) < 0.05
    for dw, dw8 in zip(dws, dws8, strict=True):
        assert (dw is None) == (dw8 is None)
        assert dw is None or torch.equal(dw, dw8)
