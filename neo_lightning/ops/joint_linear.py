"""Several projections of one input as one product: the weights stay separate parameters, the outputs are neighbours.

    x [T, E]  @  [W_1; W_2; ...]^T   =   [x W_1^T | x W_2^T | ...]  [T, F_1 + F_2 + ...]

One product reads x once, and its gradient to x is one product where separate ones would be added up. The weights are
put together when they are used, forward and backward, and only they themselves are kept in between: that copies a
weight once per pass (nothing beside a product over thousands of rows), and sharded or recomputed layers hold no more
than before. On that occasion their rows can be put into any order, which spares whoever uses the outputs to rearrange
those. Frozen weights cost no gradient; where all are, x is not kept either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Order(NamedTuple):
    """An order of the rows of all weights; both [sum of F_i] int64."""

    rows: Tensor
    """The row of each output."""
    inverse: Tensor
    """The output of each row."""


def joint_linear(x: Tensor, weights: Sequence[Tensor], order: Order | None = None) -> Tensor:
    """The outputs of bias-free linear layers of one input, side by side.

    Args:
        x: [T, E]; weights: [F_i, E] each, of the same dtype.
        order: of the outputs, that of the weights if absent.

    Returns:
        [T, sum of F_i] in autocast's dtype where that is on.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weights = x.to(dtype), [weight.to(dtype) for weight in weights]
    return _JointLinear.apply(x, order, *weights)


class _JointLinear(torch.autograd.Function):
    """(x [T, E], order, weights [F_i, E]...) -> [T, sum of F_i]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Order | None, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x if any(ctx.needs_input_grad[2:]) else None, *weights)
        ctx.order = order
        return x.mm(_together(weights, order).t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        (dy,), (x_wants, _, *wants), order = grads, ctx.needs_input_grad, ctx.order
        dx = dy.mm(_together(weights, order)) if x_wants else None
        if not any(wants):
            return dx, None, *(None for _ in weights)
        widths = [weight.shape[0] for weight in weights]
        if not all(wants):
            if order is None:
                dy = torch.cat(list(compress(dy.split(widths, 1), wants)), 1)
            else:
                dy = dy.index_select(1, torch.cat(list(compress(order.inverse.split(widths), wants))))
        dw = dy.t().mm(x)
        if all(wants) and order is not None:
            dw = dw.index_select(0, order.inverse)
        dws = iter(dw.split(list(compress(widths, wants))))
        return dx, None, *(next(dws) if wanted else None for wanted in wants)


def _together(weights: Sequence[Tensor], order: Order | None) -> Tensor:
    """[sum of F_i, E]."""
    stacked = torch.cat(list(weights))
    return stacked if order is None else stacked.index_select(0, order.rows)
