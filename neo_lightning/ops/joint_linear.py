"""Several projections of one input as one product: the weights stay separate parameters, the outputs are neighbours.

    x [T, E]  @  [W_1; W_2; ...]^T   =   [x W_1^T | x W_2^T | ...]  [T, F_1 + F_2 + ...]

One product reads x once, and its gradient to x is one product where separate ones would be added up. The weights are
put together when they are used, forward and backward, and only they themselves are kept in between: that copies a
weight once per pass (nothing beside a product over thousands of rows), and sharded or recomputed layers hold no more
than before. Frozen weights cost no gradient; where all are, x is not kept either.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor


def joint_linear(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """The outputs of bias-free linear layers of one input, side by side.

    Args:
        x: [T, E]; weights: [F_i, E] each, of the same dtype.

    Returns:
        [T, sum of F_i], in the order of the weights, in autocast's dtype where that is on.
    """
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weights = x.to(dtype), [weight.to(dtype) for weight in weights]
    return _JointLinear.apply(x, *weights)


class _JointLinear(torch.autograd.Function):
    """(x [T, E], weights [F_i, E]...) -> [T, sum of F_i]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x if any(ctx.needs_input_grad[1:]) else None, *weights)
        return x.mm(torch.cat(weights).t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        (dy,), (x_wants, *wants) = grads, ctx.needs_input_grad
        dx = dy.mm(torch.cat(weights)) if x_wants else None
        if not any(wants):
            return dx, *(None for _ in weights)
        widths = [weight.shape[0] for weight in weights]
        if not all(wants):
            dy = torch.cat(list(compress(dy.split(widths, 1), wants)), 1)
        dws = iter(dy.t().mm(x).split(list(compress(widths, wants))))
        return dx, *(next(dws) if wanted else None for wanted in wants)
