"""Chunked linear cross-entropy whose forward pass makes the gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ChunkedLinearCrossEntropy(torch.autograd.Function):
    """(hidden [N, E], weight [V, E], targets [N], weights [N], chunk) -> (loss scalar, nll [N])."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        high = torch.promote_types(hidden.dtype, torch.float32)
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        nll = torch.empty(hidden.shape[0], dtype=high, device=hidden.device)
        d_hidden = torch.empty_like(hidden) if needs_hidden else None
        d_weight = torch.zeros_like(weight, dtype=high) if needs_weight else None
        for a in range(0, hidden.shape[0], chunk):
            rows, target = hidden[a : a + chunk], targets[a : a + chunk, None]
            logits = (rows @ weight.t()).to(high)
            lse = torch.logsumexp(logits, -1)
            nll[a : a + chunk] = lse - logits.gather(1, target)[:, 0]
            if d_hidden is None and d_weight is None:
                continue
            p = logits.sub_(lse[:, None]).exp_()
            p.scatter_add_(1, target, torch.full_like(target, -1, dtype=high))
            d_logits = p.mul_(weights[a : a + chunk, None]).to(hidden.dtype)
            if d_hidden is not None:
                d_hidden[a : a + chunk] = d_logits @ weight
            if d_weight is not None and d_weight.dtype == d_logits.dtype:
                d_weight.addmm_(d_logits.t(), rows)
            elif d_weight is not None:
                d_weight += d_logits.t() @ rows
        ctx.save_for_backward(d_hidden, d_weight)  # not as attributes: the loss would hold them to the step's end
        ctx.dtype = weight.dtype
        ctx.mark_non_differentiable(nll)
        return (nll * weights).sum(), nll

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        d_hidden, d_weight = ctx.saved_tensors
        if d_hidden is not None:  # in place: a second backward pass through this graph is refused by autograd
            d_hidden = d_hidden.mul_(grads[0].to(d_hidden.dtype))
        if d_weight is not None:
            d_weight = d_weight.mul_(grads[0]).to(ctx.dtype)
        return d_hidden, d_weight, None, None, None
