"""Projections whose frozen weights lie in few bits, beside low-rank terms that are trained (arXiv 2305.14314).

<projection>.weight  codes      <projection>.weight_scale  their scales      see `ops.coded`
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from neo_lightning.ops.coded import Bits, Coded, room

_SCALE = "_scale"


def held(projection: nn.Linear) -> Tensor | Coded:
    """A projection's weight, as it lies in memory."""
    weight = projection.weight
    return weight if weight.is_floating_point() else Coded(weight, projection.weight_scale)  # type: ignore[arg-type]


def hold_in_bits(model: nn.Module, weights: Iterable[str], bits: Bits) -> None:
    """Make room for the codes of weights, by name, in place of them. Nothing is encoded: theirs are undefined.

    Raises:
        ValueError: a weight that cannot lie in so many.
    """
    for name in weights:
        projection = model.get_submodule(name.rpartition(".")[0])
        codes, scale = room(projection.weight, bits)  # type: ignore[arg-type]
        projection.weight = nn.Parameter(codes, requires_grad=False)
        projection.weight_scale = nn.Parameter(scale, requires_grad=False)


def scale_name(weight: str) -> str:
    """The parameter that holds the scales of a weight's codes."""
    return f"{weight}{_SCALE}"


def is_scale(name: str) -> bool:
    """Whether a parameter's name is that of scales."""
    return name.endswith(f".weight{_SCALE}")
