"""What goes to continuous batching and what comes back: see `batching`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..model.prompt import Prompt
from ..model.running import Running
from ..model.sampling import Sampling
from .pieces import Pieces, Stops


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked for."""

    prompt: Prompt
    """From `Engine.prompt`."""
    max_new_tokens: int
    sampling: Sampling
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    logprobs: int | None = None
    """None: none; N: that of each token, and of the N likeliest besides."""
    adapter: str | None = None
    """Name of a loaded adapter; None: the base."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A token of an answer whose log probabilities were asked for."""

    token: int
    text: str
    """What it says alone; a part of a character is a replacement character."""
    logprob: float
    """In nats, before temperature, filters and penalties."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens and theirs."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What a step added to an answer."""

    text: str
    """May be empty: a character is not whole yet, or a stop text may be beginning."""
    tokens: tuple[Chosen, ...] = ()
    """Empty where no log probabilities were asked for."""
    finish: Literal["stop", "length", "cancelled", "failed"] | None = None
    made: int = 0
    """Tokens of the answer so far."""
    cached: int = 0
    """Tokens of the prompt that were taken from a kept cache."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What there is to do, and what has been done since the start."""

    running: int
    waiting: int
    cache_used: int
    """Tokens in the cache, those kept for later included."""
    cache_tokens: int
    """Its bound."""
    prompt_tokens: int
    made_tokens: int
    kept_tokens: int
    """Tokens of prompts that were found in a kept cache."""
    kept_hits: int
    """Requests that found some."""
    failed: int
    """Answers that ended in an error."""


class QueueFull(Exception):
    """As many requests wait as may."""


@dataclass(eq=False, kw_only=True)
class Ticket:
    """A request on its way."""

    request: Request
    on_piece: Callable[[Piece], None]
    pieces: Pieces
    stops: Stops
    cancelled: bool = False
    sequence: Running | None = None
    _wake: Callable[[], None] = field(repr=False)

    def cancel(self) -> None:
        """End it: its place is free at the next token. May be called at any time, from any thread."""
        self.cancelled = True
        self._wake()
