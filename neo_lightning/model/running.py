"""A sequence of the running batch, a token of its answer, and what is kept of it when it has left."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from neo_lightning.model.cache import Range
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.sampling import Sampling

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A token of an answer."""

    token: int
    logprob: float = 0.0
    """Of all tokens, before temperature, filters and penalties; 0 where it was not asked for."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and theirs."""


@dataclass(eq=False, kw_only=True)
class Running:
    """A sequence of the batch."""

    prompt: Prompt
    most: int
    """Longest answer."""
    sampling: Sampling
    stop_ids: Collection[int]
    generator: torch.Generator
    logprobs: int | None
    adapter: str | None
    places: Range
    fed: int = 0
    """Tokens whose keys and values are in the cache."""
    cached: int = 0
    """Those of them that were there when it joined."""
    tokens: list[int] = field(default_factory=list)
    """The answer so far."""
    seen: Tensor | None = None
    """[V] bool: tokens under the repetition penalty."""
    finish: Finish | None = None

    @property
    def read(self) -> bool:
        """Whether all of the prompt is in the cache."""
        return self.fed >= len(self.prompt)


@dataclass(frozen=True, eq=False, kw_only=True)
class Kept:
    """A sequence that has left, and whose keys and values are still there."""

    keys: Tensor
    """See `Prompt.keys`; of the answer's tokens too."""
    adapter: str | None
    places: Range
