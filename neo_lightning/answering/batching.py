"""Continuous batching: requests from any thread, answered together by a thread of its own.

    submit --queue, oldest first--> running batch (model/batch.py) --a token of each a step--> on_piece
                                         ^ a place is free at the next token when an answer ends or is cancelled

Nobody overtakes: a request that finds no room in the cache waits, and those behind it. The model belongs to the thread
while it runs, and its weights must stay as they are.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Literal

from ..model.batch import RunningBatch
from ..model.running import Chosen as Token
from ..model.running import Running
from .engine import Engine
from .pieces import Pieces, Stops
from .request import Chosen, Load, Piece, QueueFull, Request, Ticket

__all__ = ["PREFILL", "Batching", "Chosen", "Load", "Piece", "QueueFull", "Request", "Ticket"]

PREFILL = 256
"""Most prompt tokens between two decoding steps, where nothing else is said."""
logger = logging.getLogger(__name__)


class Batching:
    """See the head of this file. A context manager; its end is that of every answer."""

    def __init__(
        self,
        engine: Engine,
        *,
        cache_tokens: int,
        waiting: int,
        prefill: int = PREFILL,
        use: Callable[[str | None], None] | None = None,
    ) -> None:
        """
        Args:
            engine: whose model answers.
            cache_tokens: most tokens whose keys and values are held, of all sequences together and kept ones.
            waiting: longest queue.
            prefill: most prompt tokens between two decoding steps; more where one image has more.
            use: makes the model use an adapter; see `RunningBatch`.
        """
        self._engine, self._most_waiting = engine, waiting
        self._cache_tokens, self._prefill, self._use = cache_tokens, prefill, use
        self._batch = self._fresh()
        self._waiting: deque[Ticket] = deque()
        self._running: dict[Running, Ticket] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._counts = dict.fromkeys(("prompt_tokens", "made_tokens", "kept_tokens", "kept_hits", "failed"), 0)
        self._thread = threading.Thread(target=self._work, name="batching", daemon=True)
        self._thread.start()

    def __enter__(self) -> Batching:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cancel every answer and end the thread; returns when it has ended."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def submit(self, request: Request, on_piece: Callable[[Piece], None]) -> Ticket:
        """Queue a request.

        Args:
            request: what is asked for.
            on_piece: called from the batching thread, must not block. The last call has `finish` set.

        Raises:
            QueueFull: as many wait as may; or it is closed.
            ValueError: the prompt cannot be used, or prompt and answer are longer than the model or the cache allows.
        """
        request.prompt.check("the prompt")
        length, most = len(request.prompt), self._engine.model.config.max_position_embeddings
        for bound, what in ((most, "the model's context has"), (self._cache_tokens, "the cache holds")):
            if length + request.max_new_tokens > bound:
                raise ValueError(
                    f"the prompt has {length} tokens and the answer may have {request.max_new_tokens}: together more "
                    f"than the {bound} that {what}; ask for a shorter answer, or show fewer or smaller pictures"
                )
        if request.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, found {request.max_new_tokens}")
        if request.adapter is not None and self._use is None:
            raise ValueError(f"there is no adapter {request.adapter!r}: none is loaded")
        ticket = Ticket(
            request=request,
            on_piece=on_piece,
            pieces=Pieces(self._engine.tokenizer.decode),
            stops=Stops(request.stop),
            _wake=self._wake,
        )
        with self._changed:
            if self._closing or len(self._waiting) >= self._most_waiting:
                raise QueueFull("the server is closing" if self._closing else f"{len(self._waiting)} requests wait")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    def load(self) -> Load:
        """A picture of this moment, from any thread."""
        with self._changed:
            return Load(
                running=len(self._running),
                waiting=len(self._waiting),
                cache_used=self._batch.cache.used,
                cache_tokens=self._cache_tokens,
                **self._counts,
            )

    # ---- the thread

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _fresh(self) -> RunningBatch:
        return RunningBatch(
            self._engine.model,
            cache_tokens=self._cache_tokens,
            keep=self._cache_tokens,
            prefill=self._prefill,
            use=self._use,
        )

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._closing or self._running or self._waiting):
                    self._changed.wait()
                if self._closing:
                    break
            self._drop_cancelled()
            try:
                self._admit()
                if self._running:
                    for sequence, token in self._batch.step():
                        self._deliver(self._running[sequence], sequence, token)
            except Exception:
                logger.exception("a step failed; the answers that were under way end with it")
                self._fail()
        for ticket in [*self._running.values(), *self._waiting]:
            self._end(ticket, "cancelled")
        self._running.clear()
        self._waiting.clear()

    def _drop_cancelled(self) -> None:
        with self._changed:
            gone = [ticket for ticket in self._waiting if ticket.cancelled]
            self._waiting = deque(ticket for ticket in self._waiting if not ticket.cancelled)
        for sequence, ticket in list(self._running.items()):
            if ticket.cancelled:
                self._batch.leave(sequence)
                del self._running[sequence]
                gone.append(ticket)
        for ticket in gone:
            self._end(ticket, "cancelled")

    def _admit(self) -> None:
        while self._waiting:
            ticket = self._waiting[0]
            request = ticket.request
            sequence = self._batch.join(
                request.prompt,
                max_new_tokens=request.max_new_tokens,
                sampling=request.sampling,
                stop_ids=self._engine.stop_ids,
                seed=request.seed,
                logprobs=request.logprobs,
                adapter=request.adapter,
            )
            if sequence is None:
                return
            ticket.sequence = sequence
            with self._changed:
                self._waiting.popleft()
                self._running[sequence] = ticket
                self._counts["prompt_tokens"] += len(request.prompt)
                self._counts["kept_tokens"] += sequence.cached
                self._counts["kept_hits"] += sequence.cached > 0

    def _deliver(self, ticket: Ticket, sequence: Running, token: Token) -> None:
        """Tell of a token. One that ends the answer has no text."""
        said = sequence.finish != "stop"
        text = ticket.stops.add(ticket.pieces.add(token.token)) if said else ""
        finish: Literal["stop", "length", "cancelled"] | None = sequence.finish
        if finish is not None and not ticket.stops.found:
            text += ticket.stops.add(ticket.pieces.rest())
            text += ticket.stops.rest()
        if ticket.stops.found and finish is None:
            self._batch.leave(sequence, "stop")
        finish = "stop" if ticket.stops.found else finish
        tokens: tuple[Chosen, ...] = ()
        if said and ticket.request.logprobs is not None:
            alone = self._engine.tokenizer.decode([token.token], skip_special_tokens=False)
            tokens = (Chosen(token=token.token, text=alone, logprob=token.logprob, top=token.top),)
        with self._changed:
            self._counts["made_tokens"] += 1
            if finish is not None:
                del self._running[sequence]
        made, cached = len(sequence.tokens), sequence.cached
        self._tell(ticket, Piece(text=text, tokens=tokens, finish=finish, made=made, cached=cached))

    def _fail(self) -> None:
        """Every running answer ends, or else the one that could not begin; the cache is made anew."""
        gone = list(self._running.values()) or [self._waiting[0]]
        with self._changed:
            for ticket in gone:
                with suppress(ValueError):
                    self._waiting.remove(ticket)
            self._running.clear()
            self._counts["failed"] += len(gone)
            self._batch = self._fresh()
        for ticket in gone:
            self._end(ticket, "failed")

    def _end(self, ticket: Ticket, finish: Literal["cancelled", "failed"]) -> None:
        sequence = ticket.sequence
        made, cached = (len(sequence.tokens), sequence.cached) if sequence else (0, 0)
        self._tell(ticket, Piece(text="", finish=finish, made=made, cached=cached))

    @staticmethod
    def _tell(ticket: Ticket, piece: Piece) -> None:
        try:
            ticket.on_piece(piece)
        except Exception:
            logger.exception("on_piece failed; its answer is cancelled, the others go on")
            ticket.cancelled = True
