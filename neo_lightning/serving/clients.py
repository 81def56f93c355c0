"""Clients whose requests have come: each is waited for until it goes away or the server stops, whatever is under way.

Decoded pictures may be a thousand times as large as their files, and are held until a request is answered: they are
counted here, before they are decoded.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.types import Receive

from .errors import busy, stopped

T = TypeVar("T")

MOST_PIXEL_BYTES = 2 << 30
"""Decoded, of all requests that are held at a time. One alone is bounded by its tokens, and always decoded."""


class Gone(Exception):
    """The client went away."""


class Clients:
    """Those of one server."""

    def __init__(self) -> None:
        self.pixel_bytes = 0
        """Decoded, of all."""
        self.lock = threading.Lock()
        """Of `pixel_bytes`, and of who holds them."""
        self._here: set[Client] = set()
        self._stopped = False

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[Client]:
        """A client whose body has been read.

        Raises:
            Refused: the server has stopped.
            Gone: within, where something is waited for: the client went away.
        """
        if self._stopped:
            raise stopped()
        client = Client(self)
        watch = asyncio.ensure_future(_watch(client, receive))
        self._here.add(client)
        try:
            yield client
        finally:
            watch.cancel()
            self._here.remove(client)
            client.end(Gone())

    def stop(self) -> None:
        """Tell all of them, and those that come, that the server stops; for the loop's thread."""
        self._stopped = True
        for client in self._here:
            client.end(stopped())


class Client:
    """One of them, and the pixels that are decoded for it."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients
        self._end: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self._ended = False
        self._pixel_bytes = 0

    async def wait(self, what: Awaitable[T]) -> T:
        """What comes of it; cancelled where the client's end comes first: a thread's work that waits never begins.

        Raises:
            Gone: the client went away.
            Refused: the server stops.
        """
        coming = asyncio.ensure_future(what)
        try:
            await asyncio.wait((coming, self._end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not (came := coming.done()):
                coming.cancel()
        if not came:
            raise self._end.result()
        return coming.result()

    def check(self) -> None:
        """Raises Gone where nobody waits any more; for threads, between one medium and the next."""
        if self._ended:
            raise Gone

    def hold(self, size: int) -> None:
        """Count pixels that are about to be decoded, until the client's end; for threads.

        Raises:
            Gone: nobody waits any more.
            Refused: too many are held.
        """
        with self._clients.lock:
            self.check()
            held = self._clients.pixel_bytes
            if held and held + size > MOST_PIXEL_BYTES:
                raise busy(f"{held >> 20} MB of decoded pictures are held, as much as may be with {size >> 20} MB more")
            self._clients.pixel_bytes += size
            self._pixel_bytes += size

    def end(self, why: Exception) -> None:
        """Whoever waits is told why, and holds nothing more; for the loop's thread."""
        if not self._end.done():
            self._end.set_result(why)
        with self._clients.lock:
            self._ended = True
            self._clients.pixel_bytes -= self._pixel_bytes
            self._pixel_bytes = 0


async def _watch(client: Client, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    client.end(Gone())
