"""Frozen weights w [F, E] in few bits: codes, and scales that they are multiplied with.

    8 bits   whole numbers of -127 to 127, one in a byte                 a scale for each row
    4 bits   the 16 levels of NF4 (arXiv 2305.14314), two in a byte      a scale for each block of 64 of a row

They lie so in memory, and are numbers of the input's type again where they are multiplied with, forward and backward:
beside a product over thousands of rows that is little. In 8 bits a weight is off by 1/254 of the largest of its row at
most, in 4 by 15% of the largest of its block; it is rounded once more where the type is bfloat16.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Bits = Literal[4, 8]
MOST = 127
BLOCK = 64
"""Weights that share a scale in 4 bits; fewer where E is no multiple."""
LEVELS = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Of NF4: quantiles of a normal distribution, 0 among them."""


class Coded(NamedTuple):
    """A frozen weight in few bits."""

    codes: Tensor
    """[F, E] int8, or [F, E / 2] uint8: the first of two in the upper half."""
    scale: Tensor
    """bfloat16, [F] or [F, blocks]: it is what it is, whatever is computed in."""


def room(weight: Tensor, bits: Bits) -> Coded:
    """Undefined codes for a weight [F, E], where it lies.

    Raises:
        ValueError: 4 bits, and E is odd.
    """
    outputs, inputs = weight.shape
    if bits == 8:
        codes, scale = weight.new_empty(weight.shape, dtype=torch.int8), weight.new_empty(outputs)
    elif inputs % 2:
        raise ValueError(f"4 bits hold two weights of a row in a byte, and this one has {inputs}")
    else:
        codes = weight.new_empty(outputs, inputs // 2, dtype=torch.uint8)
        scale = weight.new_empty(outputs, inputs // math.gcd(inputs, BLOCK))
    return Coded(codes, scale.bfloat16())


def encode(weight: Tensor, bits: Bits) -> Coded:
    """The nearest codes of a weight [F, E] of floats."""
    codes, scale = room(weight, bits)
    blocks = weight.float().view(*scale.shape, -1)
    scale.copy_(blocks.abs().amax(-1) / (MOST if bits == 8 else 1))
    steps = blocks / scale.float().where(scale > 0, 1.0)[..., None]
    if bits == 8:
        return Coded(codes.copy_(steps.round().clamp(-MOST, MOST)), scale)
    levels = torch.tensor(LEVELS, device=weight.device)
    index = torch.bucketize(steps, (levels[1:] + levels[:-1]) / 2).view(*codes.shape, 2)
    return Coded(codes.copy_(16 * index[..., 0] + index[..., 1]), scale)


def decode(coded: Coded, dtype: torch.dtype) -> Tensor:
    """[F, E] of floats."""
    codes, scale = coded
    if codes.dtype == torch.int8:
        return codes.to(dtype).mul_(scale.to(dtype)[:, None])
    levels = torch.tensor(LEVELS, dtype=dtype, device=codes.device)
    pairs = torch.cartesian_prod(levels, levels)  # of every byte
    blocks = F.embedding(codes.int(), pairs).view(*scale.shape, -1)
    return blocks.mul_(scale.to(dtype)[..., None]).flatten(1)
