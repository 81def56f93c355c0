"""Frozen weights in 8 bits: w [F, E] = codes * scale, whole numbers of -127 to 127 and a scale for each output.

They lie so in memory, and are numbers of the input's type again where they are multiplied with, forward and backward:
beside a product over thousands of rows that is nothing. A weight is off by half a scale at most, 1/254 of the largest
of its row, and rounded once more where that type is bfloat16.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

MOST = 127


class Coded(NamedTuple):
    """A frozen weight in 8 bits."""

    codes: Tensor
    """[F, E] int8."""
    scale: Tensor
    """[F] bfloat16: it is what it is, whatever is computed in."""


def encode(weight: Tensor) -> Coded:
    """The nearest codes of a weight [F, E] of floats."""
    weight = weight.float()
    scale = (weight.abs().amax(1) / MOST).bfloat16()
    steps = weight / scale.float().where(scale > 0, torch.ones((), device=scale.device))[:, None]
    return Coded(steps.round().clamp(-MOST, MOST).to(torch.int8), scale)


def decode(coded: Coded, dtype: torch.dtype) -> Tensor:
    """[F, E] of floats."""
    return coded.codes.to(dtype).mul_(coded.scale.to(dtype)[:, None])
