"""uvicorn's connections with limits: in how many there are, how long a request's head may take, how long a reply.

A client that closes its sending half counts as gone, as uvicorn has it. One that sends its head drop by drop, or does
not read what it is sent, is cut off.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 20.0
"""From the connection, or from the last reply, to a whole head of the next request."""
UNREAD_SECONDS = 30.0
"""In which a client must take what was sent, a few tens of kilobytes at a time."""
MOST_CONNECTIONS = 2048


class Limited(H11Protocol):
    """One connection."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See asyncio."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        for timer in (self._head, self._unread):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """See uvicorn."""
        super().on_response_complete()
        self._expect_head()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()

    def _expect_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
        self._head = self.loop.call_later(HEAD_SECONDS, self._look, self.cycle)

    def _look(self, last: object) -> None:
        if self.cycle is last:  # no request since
            self.transport.abort()
