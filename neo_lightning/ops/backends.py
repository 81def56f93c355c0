"""The one place that decides by device which code runs: Triton on a GPU, plain torch elsewhere."""

from __future__ import annotations

import functools
import importlib.util

import torch


@functools.cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


def default_backend(device: torch.device, otherwise: str) -> str:
    """ "triton" for a CUDA device where Triton is installed, else `otherwise`."""
    return "triton" if device.type == "cuda" and _has_triton() else otherwise
