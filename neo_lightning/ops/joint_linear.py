"""Several projections of one input as one product: the weights stay separate parameters, the outputs are neighbours.

    x [T, E]  @  [W_1; W_2; ...]^T   =   [x W_1^T | x W_2^T | ...]  [T, F_1 + F_2 + ...]

One product reads x once, and its gradient to x is one product where separate ones would be added up. The weights are
put together when they are used, forward and backward, and only they themselves are kept in between: that copies a
weight once per pass (nothing beside a product over thousands of rows), and sharded or recomputed layers hold no more
than before. On that occasion their rows can be put into any order, which spares whoever uses the outputs to rearrange
those. Frozen weights cost no gradient; where all are, x is not kept either.

Without gradients and for few rows nothing is copied: the outputs are put together, or nothing at all where the weights
are neighbours in memory (`lay_together`), which makes them one matrix. On a CPU a large matrix then stands on the left,
W x^T: its library is up to four times as fast that way round.

A frozen weight may lie in few bits (`ops.coded`): it is decoded on that occasion, and its codes are what is kept.

In 8-bit floats (`ops.fp8`) go the product above and its gradient to x. The weights' gradients stay in x's dtype: they
are what an optimiser gathers over many steps, and one of them alone would want scales along the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_lightning.ops.coded import Coded, decode
from neo_lightning.ops.fp8 import mm_fp8

FEW = 256
"""Rows up to which weights are not put together."""
LARGE = 1 << 20
"""Elements from which on a matrix stands on the left of its product with few rows."""


class Order(NamedTuple):
    """An order of the rows of all weights; both [sum of F_i] int64."""

    rows: Tensor
    """The row of each output."""
    inverse: Tensor
    """The output of each row."""


def joint_linear(
    x: Tensor,
    weights: Sequence[Tensor | Coded],
    order: Order | None = None,
    *,
    fp8: bool = False,
    plus: Tensor | None = None,
) -> Tensor:
    """The outputs of bias-free linear layers of one input, side by side.

    Args:
        x: [T, E]; weights: [F_i, E] each, of the same dtype, or coded and frozen.
        order: of the outputs, that of the weights if absent.
        fp8: multiply in 8-bit floats; E and the sum of F_i are multiples of 16 then.
        plus: [T, sum of F_i], added to the outputs.

    Returns:
        [T, sum of F_i] in autocast's dtype where that is on.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weights = x.to(dtype), [w if isinstance(w, Coded) else w.to(dtype) for w in weights]
    if torch.is_grad_enabled():
        tensors = [weight.codes if isinstance(weight, Coded) else weight for weight in weights]
        scales = [weight.scale if isinstance(weight, Coded) else None for weight in weights]
        inputs = (x, *tensors) if plus is None else (x, plus, *tensors)
        if any(tensor.requires_grad for tensor in inputs):
            return _JointLinear.apply(x, order, fp8, plus, *tensors, *scales)
    if x.shape[0] <= FEW and not fp8 and not torch.compiler.is_compiling():
        return _few(x, weights, order) if plus is None else _few(x, weights, order) + plus
    return _product(x, weights, order, fp8, plus)  # a compiler leaves its graph at a Function that needs no gradient


def lay_together(weights: Sequence[Tensor]) -> None:
    """Make the parameters neighbours in memory. They stay what they are: each has its values, and can be changed."""
    parts = torch.cat([weight.detach() for weight in weights]).split([weight.shape[0] for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.data = part


def _few(x: Tensor, weights: Sequence[Tensor | Coded], order: Order | None) -> Tensor:
    """The product of few rows, [T, sum of F_i]."""
    floats = [_floats(weight, x.dtype) for weight in weights]
    together = floats[0] if len(floats) == 1 else _neighbours(floats)
    y = torch.cat([_few_rows(x, weight) for weight in floats], 1) if together is None else _few_rows(x, together)
    return y if order is None else y.index_select(1, order.rows)


def _few_rows(x: Tensor, weight: Tensor) -> Tensor:
    if x.device.type == "cpu" and weight.numel() >= LARGE:
        return weight.mm(x.t()).t().contiguous()
    return F.linear(x, weight)


def _neighbours(weights: Sequence[Tensor]) -> Tensor | None:
    """The one matrix that the weights are parts of, in order and without gaps; None where they are not."""
    first, rows = weights[0], 0
    for weight in weights:
        if type(weight) not in (Tensor, nn.Parameter) or not weight.is_contiguous():
            return None
        if weight.data_ptr() != first.data_ptr() + rows * first.shape[1] * first.element_size():
            return None
        rows += weight.shape[0]
    if first.untyped_storage().nbytes() < (first.storage_offset() + rows * first.shape[1]) * first.element_size():
        return None  # neighbours by chance, each with memory of its own
    return first.as_strided((rows, first.shape[1]), (first.shape[1], 1))


class _JointLinear(torch.autograd.Function):
    """(x [T, E], order, fp8, plus [T, sum of F_i], weights or codes [F_i, E]..., scales [F_i] or None...)
    -> [T, sum of F_i]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, order: Order | None, fp8: bool, plus: Tensor | None, *given: Tensor | None
    ) -> Tensor:
        ctx.save_for_backward(x if any(ctx.needs_input_grad[4:]) else None, *given)
        ctx.order, ctx.fp8 = order, fp8
        return _product(x, _paired(given), order, fp8, plus)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *given = ctx.saved_tensors
        (dy,), (x_wants, _, _, plus_wants, *wants), order = grads, ctx.needs_input_grad, ctx.order
        dx, dplus = None, dy if plus_wants else None
        if x_wants:
            together = _together(_paired(given), order, dy.dtype)
            dx = mm_fp8(dy, together.t()) if ctx.fp8 else dy.mm(together)
        if not any(wants):
            return dx, None, None, dplus, *(None for _ in given)
        count = len(given) // 2
        wants, widths = wants[:count], [weight.shape[0] for weight in given[:count]]
        if not all(wants):
            if order is None:
                dy = torch.cat(list(compress(dy.split(widths, 1), wants)), 1)
            else:
                dy = dy.index_select(1, torch.cat(list(compress(order.inverse.split(widths), wants))))
        dw = dy.t().mm(x)
        if all(wants) and order is not None:
            dw = dw.index_select(0, order.inverse)
        dws = iter(dw.split(list(compress(widths, wants))))
        return dx, None, None, dplus, *(next(dws) if wanted else None for wanted in wants), *(None for _ in wants)


def _paired(given: Sequence[Any]) -> list[Tensor | Coded]:
    """Weights from [weights or codes..., scales or None...]."""
    count = len(given) // 2
    pairs = zip(given[:count], given[count:], strict=True)
    return [weight if scale is None else Coded(weight, scale) for weight, scale in pairs]


def _product(
    x: Tensor, weights: Sequence[Tensor | Coded], order: Order | None, fp8: bool, plus: Tensor | None = None
) -> Tensor:
    """[T, sum of F_i]."""
    together = _together(weights, order, x.dtype)
    if plus is None:
        return mm_fp8(x, together) if fp8 else x.mm(together.t())
    return plus + mm_fp8(x, together) if fp8 else torch.addmm(plus, x, together.t())


def _together(weights: Sequence[Tensor | Coded], order: Order | None, dtype: torch.dtype) -> Tensor:
    """[sum of F_i, E]; dtype is that of what was coded."""
    coded = [weight for weight in weights if isinstance(weight, Coded)]
    if len(coded) == len(weights):  # put together as it is small
        return decode(Coded(*(_rows(parts, order) for parts in zip(*coded, strict=True))), dtype)
    return _rows([_floats(weight, dtype) for weight in weights], order)


def _rows(parts: Sequence[Tensor], order: Order | None) -> Tensor:
    """[sum of F_i, ...] from [F_i, ...] each."""
    stacked = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return stacked if order is None else stacked.index_select(0, order.rows)


def _floats(weight: Tensor | Coded, dtype: torch.dtype) -> Tensor:
    return decode(weight, dtype) if isinstance(weight, Coded) else weight
