"""Logits -> the next token of each sequence: greedy, or drawn with the usual filters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COLDEST = 1e-5
"""Temperatures below take the likeliest token: logits divided by less leave the range of float32."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """Below `COLDEST`, as at 0, the likeliest token is taken; otherwise logits are divided by this before drawing."""
    top_k: int = 0
    """Draw from the k likeliest tokens; 0 from all."""
    top_p: float = 1.0
    """Draw from the fewest tokens whose probabilities add up to at least this."""
    repetition_penalty: float = 1.0
    """Logits of tokens already in the prompt or the answer are divided by this where positive, multiplied elsewhere."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.repetition_penalty <= 0:
            raise ValueError(
                "sampling: need temperature >= 0, top_k >= 0, 0 < top_p <= 1 and repetition_penalty > 0, got "
                f"{self.temperature}, {self.top_k}, {self.top_p}, {self.repetition_penalty}"
            )


def choose(logits: Tensor, sampling: Sampling, seen: Tensor | None, uniform: Tensor | None) -> Tensor:
    """The next token of each sequence.

    Args:
        logits: [B, V].
        sampling: how to choose.
        seen: [B, V] bool, tokens under the repetition penalty; needed where that is not 1.
        uniform: [B] in [0, 1), one random number per sequence; needed where temperature is not 0.

    Returns:
        [B] int64.
    """
    logits = logits.float()
    if sampling.repetition_penalty != 1.0 and seen is not None:
        penalty = sampling.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature < COLDEST or uniform is None:
        return logits.argmax(-1)
    ordered, tokens = (logits / sampling.temperature).sort(stable=True, dim=-1, descending=True)
    if sampling.top_k:
        ordered[:, sampling.top_k :] = float("-inf")
    p = ordered.softmax(-1)
    p = torch.where(p.cumsum(-1) - p < sampling.top_p, p, torch.zeros_like(p))  # the likeliest token always stays
    cumulative = p.cumsum(-1)
    place = (cumulative <= uniform[:, None] * cumulative[:, -1:]).sum(-1)
    # rounding must not step past the last token that may be drawn; where logits are no numbers there is none
    last = ((p > 0).sum(-1) - 1).clamp(min=0)
    return tokens.gather(1, place.minimum(last)[:, None])[:, 0]
