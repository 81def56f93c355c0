"""Attention where row i sees the keys [start_i, limit_i): packed documents, text causal, image tokens both ways.

In come queries, keys and values of one packed row and the two bounds; out comes the attended value per query head.
Both bounds never decrease along the row, so a block of rows needs one contiguous range of keys, and nothing of size
T x T has to exist. The grouped-query heads are shared in order: query head h reads key head h // (H / K).

Every backend is a pair of functions: `prepare(start, limit)` makes what depends on the bounds alone (once per batch,
shared by all layers), and `attend(q, k, v, prepared, scale)` computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neo_lightning.ops.backends import default_backend
from neo_lightning.ops.interval_attention import flash, flex, reference, tiled
from neo_lightning.ops.interval_attention import triton as triton_backend
from neo_lightning.ops.interval_attention.cached import cached_attention, continued_attention, prepare_spans

__all__ = ["BACKENDS", "Backend", "choose_backend", "interval_attention", "prepare_intervals"]
__all__ += ["cached_attention", "continued_attention", "prepare_spans"]


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way of computing interval attention."""

    prepare: Callable[[Tensor, Tensor], Any]
    """(start, limit) -> whatever `attend` wants to know about them."""
    attend: Callable[[Tensor, Tensor, Tensor, Any, float], Tensor]
    """(q_THD, k_TKD, v_TKE, prepared, scale) -> o_THE."""


BACKENDS: dict[str, Backend] = {
    "reference": Backend(prepare=reference.prepare, attend=reference.attend),
    "tiled": Backend(prepare=tiled.prepare, attend=tiled.attend),
    "triton": Backend(prepare=triton_backend.prepare, attend=triton_backend.attend),
    "flex": Backend(prepare=flex.prepare, attend=flex.attend),
    "flash": Backend(prepare=flash.prepare, attend=flash.attend),
}


def choose_backend(name: str, device: torch.device) -> str:
    """The backend that `name` means on `device`: the one place where "auto" is decided.

    Raises:
        ValueError: no such backend.
    """
    if name == "auto":
        return default_backend(device, otherwise="tiled")
    if name not in BACKENDS:
        raise ValueError(f"attention backend {name!r} is unknown; there are: auto, {', '.join(BACKENDS)}")
    return name


def prepare_intervals(start: Tensor, limit: Tensor, backend: str = "auto") -> Any:
    """What `backend` derives from the bounds, to be handed to `interval_attention` by every layer of the batch."""
    return BACKENDS[choose_backend(backend, start.device)].prepare(start, limit)


def interval_attention(
    q_THD: Tensor,
    k_TKD: Tensor,
    v_TKE: Tensor,
    start: Tensor,
    limit: Tensor,
    *,
    scale: float,
    backend: str = "auto",
    prepared: Any = None,
) -> Tensor:
    """softmax(scale * q k^T within [start, limit)) v.

    Args:
        q_THD: [T, H, D] queries; k_TKD: [T, K, D] keys; v_TKE: [T, K, E] values, all of one dtype. K divides H.
        start, limit: [T] int32, neither ever decreasing, start[i] <= i < limit[i].
        scale: of the scores; NEO's is 1 / sqrt(head_dim), not 1 / sqrt(D).
        backend: "auto" or a name in BACKENDS.
        prepared: what `prepare_intervals` gave for these bounds and this backend (made here when absent).

    Returns:
        o_THE: [T, H, E] in the values' dtype; scores and softmax are float32 (float64 for float64 inputs).
    """
    chosen = BACKENDS[choose_backend(backend, q_THD.device)]
    if prepared is None:
        prepared = chosen.prepare(start, limit)
    return chosen.attend(q_THD, k_TKD, v_TKE, prepared, scale)
