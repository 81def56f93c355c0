"""A chat completion's JSON -> what is asked, every field checked.

counts      model messages max_tokens max_completion_tokens temperature top_p top_k repetition_penalty seed n stop
            stream stream_options logprobs top_logprobs
no effect   user metadata store service_tier safety_identifier prompt_cache_key parallel_tool_calls
            stream_options.include_obfuscation
only as     frequency_penalty 0, presence_penalty 0, logit_bias {}, tools [], tool_choice none or auto,
            response_format {"type": "text"}, modalities ["text"]
refused     everything else: an answer that leaves out what was asked for would be a wrong one
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import Refused
from .messages import Turn, read_messages

_NO_EFFECT = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls")
)
_ONLY_AS: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
}
_SAMPLING: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (1e-9, 1.0),
    "top_k": (0, 1 << 20),
    "repetition_penalty": (1e-3, 1e3),
}
MOST_CHOICES = 16
MOST_STOPS = 16
MOST_STOP_LETTERS = 256
MOST_LIKELIEST = 20


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A chat completion that is wanted."""

    model: str
    turns: tuple[Turn, ...]
    max_new_tokens: int | None
    """None: the model folder's, or what there is room for."""
    sampling: Mapping[str, float]
    """In place of the model folder's."""
    seed: int
    n: int
    stop: tuple[str, ...]
    stream: bool
    usage: bool
    """Whether a stream ends with the counts of tokens."""
    logprobs: int | None
    """See `answering.batching.Request`."""


def read_asked(given: Mapping[str, Any]) -> Asked:
    """Check and take apart.

    Raises:
        Refused: names the field, what was expected, and what is there.
    """
    body = {key: value for key, value in given.items() if value is not None}
    for key in body:
        if key in _ONLY_AS and body[key] not in _ONLY_AS[key]:
            allowed = " or ".join(repr(value) for value in _ONLY_AS[key])
            raise Refused(400, f"{key} is supported as {allowed} only", param=key, code="unsupported_parameter")
        if key not in _KNOWN:
            raise Refused(400, f"there is no field {key[:60]!r}", param=key[:60], code="unknown_parameter")
    longest = [_whole(body, key, 1, 1 << 24) for key in ("max_completion_tokens", "max_tokens") if key in body]
    options = body.get("stream_options", {})
    if not isinstance(options, Mapping):
        raise Refused(400, "stream_options must be an object", param="stream_options")
    options = {key: value for key, value in options.items() if value is not None}
    if unknown := [key for key in options if key not in ("include_usage", "include_obfuscation")]:
        where = f"stream_options.{unknown[0][:60]}"
        raise Refused(400, f"there is no field {where!r}", param=where, code="unknown_parameter")
    if options and not body.get("stream"):
        raise Refused(400, "stream_options goes with stream: true", param="stream_options")
    return Asked(
        model=_text(body, "model"),
        turns=read_messages(body.get("messages")),
        max_new_tokens=longest[0] if longest else None,
        sampling={key: _number(body, key, *bounds) for key, bounds in _SAMPLING.items() if key in body},
        seed=_whole(body, "seed", -(1 << 63), (1 << 63) - 1) & 0x7FFFFFFF if "seed" in body else secrets.randbits(31),
        n=_whole(body, "n", 1, MOST_CHOICES) if "n" in body else 1,
        stop=_stops(body.get("stop", [])),
        stream=_flag(body, "stream"),
        usage=_flag(options, "include_usage"),
        logprobs=_logprobs(body),
    )


_KNOWN = frozenset(
    ("model", "messages", "max_tokens", "max_completion_tokens", "seed", "n", "stop", "stream", "stream_options")
    + ("logprobs", "top_logprobs", *_SAMPLING, *_ONLY_AS, *_NO_EFFECT)
)


def _text(body: Mapping[str, Any], key: str) -> str:
    if not isinstance(body.get(key), str):
        raise Refused(400, f"{key} must be text, found {_shown(body.get(key))}", param=key)
    return body[key]


def _flag(body: Mapping[str, Any], key: str) -> bool:
    if not isinstance(body.get(key, False), bool):
        raise Refused(400, f"{key} must be true or false, found {_shown(body[key])}", param=key)
    return body.get(key, False)


def _whole(body: Mapping[str, Any], key: str, least: int, most: int) -> int:
    value = body[key]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise Refused(400, f"{key} must be a whole number from {least} to {most}, found {_shown(value)}", param=key)
    return value


def _number(body: Mapping[str, Any], key: str, least: float, most: float) -> float:
    value = body[key]
    whole = isinstance(least, int)
    right = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not right or not least <= value <= most:
        kind = "whole number" if whole else "number"
        raise Refused(400, f"{key} must be a {kind} from {least:g} to {most:g}, found {_shown(value)}", param=key)
    return value if whole else float(value)


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if (
        not isinstance(stops, list)
        or len(stops) > MOST_STOPS
        or not all(isinstance(stop, str) and 0 < len(stop) <= MOST_STOP_LETTERS for stop in stops)
    ):
        wanted = f"a text, or up to {MOST_STOPS} of them, of 1 to {MOST_STOP_LETTERS} characters each"
        raise Refused(400, f"stop must be {wanted}", param="stop")
    return tuple(stops)


def _logprobs(body: Mapping[str, Any]) -> int | None:
    wanted = _flag(body, "logprobs")
    if "top_logprobs" not in body:
        return 0 if wanted else None
    if not wanted:
        raise Refused(400, "top_logprobs goes with logprobs: true", param="top_logprobs")
    return _whole(body, "top_logprobs", 0, MOST_LIKELIEST)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:60]
