"""The exponential moving average of the weights: steadier than the last step's, and what a run's export holds.

    average <- decay * average + (1 - decay) * weight        after every step that moved the optimiser

as in Polyak averaging with a constant decay (arXiv 1509.02971 and later; NEO's successor takes 0.999). It begins at the
weight before the first step that moves it, so a parameter that no stage has trained needs none: its average is itself.
It lies in float32 beside AdamW's moments, in the optimiser's state: sharded, saved and loaded as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.optim import Optimizer

from neo_lightning.checkpoint.shards import is_distributed

EMA = "ema"
"""Key of the average in a parameter's state."""


@contextmanager
def averaging(optimizer: Optimizer, decay: float | None) -> Iterator[None]:
    """The optimiser's step in the block moves the averages too; nothing happens if `decay` is None.

    What is frozen now but has an average from an earlier stage moves on as well: it nears the weight.
    """
    if decay is None:
        yield
        return
    moving = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # AdamW makes a state of its own only where there is none, so the average comes into it after the step
    first = {p: p.detach().clone() for p in moving if EMA not in optimizer.state.get(p, {})}
    yield
    for parameter, weight in first.items():
        optimizer.state[parameter][EMA] = weight
    pairs = list(averages(optimizer))
    if pairs:
        torch._foreach_lerp_([average for average, _ in pairs], [weight for _, weight in pairs], 1 - decay)


def averages(optimizer: Optimizer) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's part of every average, and of its weight."""
    for parameter, state in optimizer.state.items():
        if EMA in state:
            yield _own(state[EMA]), _own(parameter.detach())


def drop_averages(optimizer: Optimizer) -> bool:
    """Forget all averages; whether there were any."""
    found = [state.pop(EMA) for state in optimizer.state.values() if EMA in state]
    return bool(found)


@torch.no_grad()
def exchange(optimizer: Optimizer) -> None:
    """Put averages in the place of weights and weights in that of averages; a second time undoes it to the bit."""
    for average, weight in averages(optimizer):
        kept = weight.clone()
        weight.copy_(average)
        average.copy_(kept)


def _own(tensor: Tensor) -> Tensor:
    return tensor.to_local() if is_distributed(tensor) else tensor
