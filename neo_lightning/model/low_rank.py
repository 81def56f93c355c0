"""Low-rank terms beside frozen weights: y = x W^T + scale (x A^T) B^T, for several projections of one input at once.

    A [r, E], B [F, r] of each weight     inner [T, n r] = scale x [A_1; ..; A_n]^T
                                          term  [T, F_1 + .. + F_n] = inner diag(B_1, .., B_n)^T

The blocks' zeros make the second product n times as large as it need be: a few percent of the joint product that it is
added to, in return for one product instead of n, whose outputs lie in that one's order at once.

Terms lie below the module that holds their weight, and belong to named adapters, of which at most one is active.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_lightning.ops.joint_linear import Order


@dataclass(eq=False)
class Adapters:
    """The adapters of one model; all its terms share this."""

    slots: dict[str, str] = field(default_factory=dict)
    """Name -> key of its terms in every `Terms` (a module's name may not hold a dot, an adapter's may)."""
    active: str | None = None
    """The key of the one in use."""


class LowRank(nn.Module):
    """One adapter's term of one weight. Fresh parameters are uninitialised."""

    def __init__(self, weight: Tensor, *, rank: int, scale: float, dropout: float, dtype: torch.dtype) -> None:
        """
        Args:
            weight: [F, E], or a convolution's [F, C, h, w]; the term's parameters are made where it lies.
            rank: r.
            scale: of the term.
            dropout: part of the inputs that the term does not see while it is trained.
            dtype: of the parameters.
        """
        super().__init__()
        self.A = nn.Parameter(torch.empty((rank, *weight.shape[1:]), dtype=dtype, device=weight.device))
        shape = (weight.shape[0], rank, *(1 for _ in weight.shape[2:]))
        self.B = nn.Parameter(torch.empty(shape, dtype=dtype, device=weight.device))
        self.scale, self.dropout = scale, dropout

    def delta(self) -> Tensor:
        """scale B A, float32, in the weight's shape: what it adds to the weight."""
        product = self.B.flatten(1).float() @ self.A.flatten(1).float()
        return (self.scale * product).view(-1, *self.A.shape[1:])


class Terms(nn.ModuleDict):
    """The terms of one weight, by adapter."""

    def __init__(self, adapters: Adapters) -> None:
        super().__init__()
        self.adapters = adapters


def active_term(module: nn.Module) -> LowRank | None:
    """The term of a module's weight that is in use."""
    terms: Terms | None = getattr(module, "lora", None)
    if terms is None or (slot := terms.adapters.active) is None or slot not in terms:
        return None
    return cast(LowRank, terms[slot])


def as_matrix(weight: Tensor) -> Tensor:
    """[F, ...] -> [F, E]."""
    return weight.flatten(1)


def low_rank(
    x: Tensor,
    modules: Sequence[nn.Linear | nn.Conv2d],
    order: Order | None = None,
    rows: Callable[[Tensor], Tensor] = as_matrix,
) -> Tensor | None:
    """What the active adapter adds to the joint product of the modules' weights.

    Args:
        x: [T, E], the input of all of them.
        modules: that hold a `weight`.
        order: of the outputs, as in `ops.joint_linear`.
        rows: a weight as the matrix that it is used as.

    Returns:
        [T, sum of F_i]; None where none of the weights has a term.
    """
    terms = [active_term(module) for module in modules]
    found = [term for term in terms if term is not None]
    if not found:
        return None
    one = found[0]  # rank, scale and dropout are those of the adapter
    if one.dropout and one.training:
        x = F.dropout(x, one.dropout)
    inner = (x @ torch.cat([rows(term.A) for term in found]).t()) * one.scale
    blocks = [
        one.B.new_empty(module.weight.shape[0], 0) if term is None else term.B.flatten(1)
        for module, term in zip(modules, terms, strict=True)
    ]
    outer = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
    if order is not None:
        outer = outer.index_select(0, order.rows)
    return inner @ outer.t()
