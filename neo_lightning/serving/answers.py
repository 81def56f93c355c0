"""The tickets of one request: pieces of its answers as they come, until the last, or until the client goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

from ..answering.batching import Piece, QueueFull, Request, Ticket
from ..model.prompt import Prompt
from .clients import Client
from .errors import Refused, busy, stopped, too_long
from .fields import Asked
from .service import Service


class Answers:
    """The n answers to one request."""

    def __init__(self, service: Service, count: int) -> None:
        self._service, self._loop = service, asyncio.get_running_loop()
        self._pieces: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        self._began = time.perf_counter()
        self._firsts: list[float | None] = [None] * count
        self._open = count
        self.made = [0] * count
        """Tokens of each answer."""
        self.cached = 0

    def on_piece(self, number: int, piece: Piece) -> None:
        """From the batching's thread."""
        with suppress(RuntimeError):  # the loop has ended, and with it whoever waits
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, (number, piece))

    async def next(self) -> tuple[int, Piece]:
        """The next piece of any answer."""
        number, piece = await self._pieces.get()
        now, metrics = time.perf_counter(), self._service.metrics
        first = self._firsts[number]
        if piece.made and first is None:
            self._firsts[number] = now
            metrics.first_token.add(now - self._began)
        elif piece.finish and first is not None and piece.made > 1:
            metrics.token.add((now - first) / (piece.made - 1))
        self.made[number], self.cached = piece.made, max(self.cached, piece.cached)
        self._open -= piece.finish is not None
        return number, piece

    @property
    def ended(self) -> bool:
        """All have their last piece."""
        return self._open == 0


@asynccontextmanager
async def submitted(
    service: Service, asked: Asked, prompt: Prompt, longest: int, client: Client
) -> AsyncIterator[tuple[Answers, AsyncIterator[tuple[int, Piece]]]]:
    """The answers and their pieces; whatever happens within, nothing is left in the queue behind it.

    Raises:
        Refused: the queue is full, or there is no room for so many tokens.
        Gone: within, from the pieces: the client went away; or Refused: the server stops.
    """
    answers, tickets = Answers(service, asked.n), list[Ticket]()
    try:
        for i in range(asked.n):
            request = Request(
                prompt=prompt,
                max_new_tokens=longest,
                sampling=service.sampling(asked.model, asked.sampling),
                seed=asked.seed + i,
                stop=asked.stop,
                logprobs=asked.logprobs,
                adapter=service.adapter(asked.model),
            )
            tickets.append(_submit(service, request, partial(answers.on_piece, i)))
        yield answers, _pieces(answers, client)
    finally:
        for ticket in tickets:
            ticket.cancel()


def _submit(service: Service, request: Request, on_piece: Callable[[Piece], None]) -> Ticket:
    try:
        return service.batching.submit(request, on_piece)
    except QueueFull as error:
        raise busy("the queue is full") from error
    except ValueError as error:
        raise too_long(str(error)) from error


async def _pieces(answers: Answers, client: Client) -> AsyncIterator[tuple[int, Piece]]:
    while not answers.ended:
        number, piece = await client.wait(answers.next())
        if piece.finish == "cancelled":
            raise stopped()
        if piece.finish == "failed":
            raise Refused(500, "the answer failed: the server's log says why", code="internal_error")
        yield number, piece
