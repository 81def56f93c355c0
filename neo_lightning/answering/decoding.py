"""What a call may say about decoding."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, TypedDict

from ..model.sampling import Sampling
from .settings import Answering, built


class Decoding(TypedDict, total=False):
    """What a call may say about decoding, in place of the folder's values; see `Sampling`."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int
    """Conversation number i draws from a generator of its own, seeded by this (default 0) + i."""


def how(answering: Answering, decoding: Decoding) -> tuple[int, Sampling, int]:
    """Longest answer, sampling and seed: what a call says, and for the rest the model's own.

    Raises:
        ValueError: a setting that cannot be used.
    """
    changes: dict[str, Any] = dict(decoding)
    if unknown := [name for name in changes if name not in Decoding.__annotations__]:
        raise ValueError(f"decoding: there is no {unknown[0]!r}; known: {', '.join(Decoding.__annotations__)}")
    most = whole("max_new_tokens", changes.pop("max_new_tokens", answering.max_new_tokens), least=1)
    seed = whole("seed", changes.pop("seed", 0), least=0)
    return most, built(Sampling, asdict(answering.sampling) | changes, "decoding"), seed


def whole(name: str, value: Any, *, least: int) -> int:
    """A whole number of a call.

    Raises:
        ValueError: it is none, or less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, found {value!r}")
    return value
