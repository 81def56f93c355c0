"""Products that are part of a definition stay float32 when the layers' products may be faster ones.

`torch.set_float32_matmul_precision` lets float32 matrices be multiplied in tf32 or, on CPUs with matrix units, in
bfloat16: what is meant for projections. Scores of attention and sums of squares are float32 all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32() -> Iterator[None]:
    """float32 products inside are computed in float32, whatever the process allows elsewhere."""
    allowed = torch.get_float32_matmul_precision()
    if allowed == "highest":  # setting it once more is a change to compiled code
        yield
        return
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(allowed)
