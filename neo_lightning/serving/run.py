"""The server's process: a socket, uvicorn's loop, and a stop that lets answers end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import ASGIApp

from .. import stopping
from .protocol import Limited
from .service import Service

GRACE_SECONDS = 20.0
"""In which answers may end by themselves once a stop was asked for; then they are told."""
_FILES = 1 << 14
"""Open at a time, where the system lets this process have so many."""


class Server(uvicorn.Server):
    """Stops when `stopping` says so, which is who hears the signals."""

    def __init__(
        self, app: ASGIApp, service: Service, *, grace: float = GRACE_SECONDS, ready: Callable[[], None] = lambda: None
    ) -> None:
        """
        Args:
            app: what it serves.
            service: behind it; told of the stop.
            grace: seconds in which answers may end once a stop was asked for.
            ready: called when requests are taken.
        """
        super().__init__(_config(app, grace))
        self._service, self._grace, self._ready = service, grace, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        await super().startup(sockets)
        self._ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:  # type: ignore[override]
        """They are `stopping`'s."""
        yield

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn."""
        self.should_exit = self.should_exit or stopping.asked()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """No more requests; answers end, or are told at the end of the grace."""
        self._service.stopping = True
        told = asyncio.get_running_loop().call_later(self._grace, self._tell)
        await super().shutdown(sockets)
        told.cancel()

    def _tell(self) -> None:
        self._service.clients.stop()
        asyncio.get_running_loop().run_in_executor(None, self._service.batching.close)


def listen(host: str, port: int) -> socket.socket:
    """The socket.

    Raises:
        ValueError: it cannot be had; says why.
    """
    if not 0 <= port < 1 << 16:
        raise ValueError(f"cannot listen on port {port}: ports are from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)  # where it is said to be TCP, asyncio sends without delay
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except OSError as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot listen on {host}, port {port}: {reason}") from error
    return found


def serve(app: ASGIApp, service: Service, sock: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until somebody asks to stop; the service is closed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _FILES)), hard))
    with stopping.held():
        asyncio.run(Server(app, service, ready=ready).serve([sock]))
    service.close()


def _config(app: ASGIApp, grace: float) -> uvicorn.Config:
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app,
        http=Limited,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=2048,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=int(grace) + 10,
    )
