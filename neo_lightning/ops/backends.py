"""The one place that decides by device which code runs: Triton on a GPU, plain torch elsewhere."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

Choice = TypeVar("Choice")


HAS_TRITON = importlib.util.find_spec("triton") is not None


def default_backend(device: torch.device, otherwise: str) -> str:
    """`triton` for a CUDA device where Triton is installed, else `otherwise`."""
    return "triton" if device.type == "cuda" and HAS_TRITON else otherwise


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off. Where it is off already nothing is done, which counts where there are few rows."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def choose(backends: Mapping[str, Choice], name: str, x: Tensor) -> Choice:
    """The entry that `name` means for `x`.

    "auto" goes by its device: Triton's kernels, else passes ordered by hand (`eager`); a compiler gets the definition,
    of which it makes fewer passes than of those. float64 has no kernel.

    Raises:
        ValueError: no such backend.
    """
    if name == "auto":
        otherwise = "reference" if torch.compiler.is_compiling() else "eager"
        name = otherwise if x.dtype == torch.float64 else default_backend(x.device, otherwise)
    if name not in backends:
        raise ValueError(f"backend {name!r} is unknown; there are: auto, {', '.join(backends)}")
    return backends[name]
