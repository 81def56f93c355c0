"""Answers to many requests from one thread: here one at a time, in the order in which they came."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from ..model.generate import Cache, Prompt, _prefill, stream
from ..model.sampling import Sampling
from .engine import Engine, Pieces


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked."""

    prompt: Prompt
    max_new_tokens: int
    sampling: Sampling
    seed: int = 0
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    logprobs: int | None = None
    """None: none; N: that of each token and of the N likeliest besides."""
    adapter: str | None = None


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A token of the answer, and what else it might have been."""

    token: int
    text: str
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What has come since the last one."""

    text: str
    tokens: tuple[Chosen, ...]
    finish: Literal["stop", "length", "cancelled", "failed"] | None
    made: int
    cached: int


class QueueFull(Exception):
    """As many wait as may."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is going on."""

    running: int
    waiting: int
    cache_tokens: int
    cache_total: int
    made: int
    prompted: int
    kept_hits: int


class Ticket:
    """A place in the queue."""

    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        """Free it at the next token."""
        self.cancelled = True


class Batching:
    """The thread."""

    def __init__(self, engine: Engine, *, cache_tokens: int, waiting: int, prefill: int = 2048) -> None:
        self._engine, self._tokens, self._waiting = engine, cache_tokens, waiting
        self._queue: queue.SimpleQueue[tuple[Ticket, Request, Callable[[Piece], None]] | None] = queue.SimpleQueue()
        self._running = self._made = self._prompted = self._used = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="batching", daemon=True)
        self._thread.start()

    def __enter__(self) -> Batching:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it and every answer."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def submit(self, request: Request, on_piece: Callable[[Piece], None]) -> Ticket:
        """See the contract."""
        need = request.prompt.input_ids.numel() + request.max_new_tokens
        if need > self._tokens:
            raise ValueError(f"{need} tokens are more than the cache holds ({self._tokens})")
        if self._queue.qsize() >= self._waiting:
            raise QueueFull
        ticket = Ticket()
        self._queue.put((ticket, request, on_piece))
        return ticket

    def load(self) -> Load:
        """What is going on."""
        return Load(
            running=self._running,
            waiting=self._queue.qsize(),
            cache_tokens=self._used,
            cache_total=self._tokens,
            made=self._made,
            prompted=self._prompted,
            kept_hits=0,
        )

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            ticket, request, on_piece = item
            self._running, self._used = 1, request.prompt.input_ids.numel() + request.max_new_tokens
            try:
                self._answer(ticket, request, on_piece)
            except Exception:
                on_piece(Piece(text="", tokens=(), finish="failed", made=0, cached=0))
            self._running = self._used = 0

    def _answer(self, ticket: Ticket, request: Request, on_piece: Callable[[Piece], None]) -> None:
        decode, made = self._engine.tokenizer.decode, 0
        pieces, held = Pieces(decode), ""
        ids: list[int] = []
        self._prompted += request.prompt.input_ids.numel()
        steps = stream(
            self._engine.model,
            [request.prompt],
            max_new_tokens=request.max_new_tokens,
            sampling=request.sampling,
            stop_ids=self._engine._stop,
            seed=request.seed,
        )
        finish: Literal["stop", "length"] = "stop"
        for (token,) in steps:
            if ticket.cancelled or self._closed:
                on_piece(Piece(text="", tokens=(), finish="cancelled", made=made, cached=0))
                return
            assert token is not None
            chosen = self._chosen(request, ids, token)
            ids.append(token)
            made += 1
            self._made += 1
            held += pieces.add(token)
            if ends := [at for text in request.stop if (at := held.find(text)) >= 0]:
                on_piece(Piece(text=held[: min(ends)], tokens=chosen, finish="stop", made=made, cached=0))
                return
            keep = max((k for text in request.stop for k in range(1, len(text)) if held.endswith(text[:k])), default=0)
            text, held = held[: len(held) - keep], held[len(held) - keep :]
            on_piece(Piece(text=text, tokens=chosen, finish=None, made=made, cached=0))
        finish = "length" if made == request.max_new_tokens else "stop"
        on_piece(Piece(text=held + pieces.rest(), tokens=(), finish=finish, made=made, cached=0))

    def _chosen(self, request: Request, ids: list[int], token: int) -> tuple[Chosen, ...]:
        if request.logprobs is None:
            return ()
        prompt = request.prompt
        more = torch.tensor(ids, dtype=torch.long)
        prompt = replace(
            prompt,
            input_ids=torch.cat([prompt.input_ids, more]),
            visual=torch.cat([prompt.visual, torch.zeros(len(ids), dtype=torch.bool)]),
        )
        model = self._engine.model
        cache = Cache(sequences=1, places=prompt.input_ids.numel() + 1)
        with torch.no_grad():
            logits = model(_prefill(model, [prompt], cache, model.head_weight.device)[0])
        logs = logits[0].float().log_softmax(-1)
        values, tokens = logs.topk(request.logprobs)
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
        text = self._engine.tokenizer.decode([token])
        return (Chosen(token=token, text=text, logprob=float(logs[token]), top=top),)
