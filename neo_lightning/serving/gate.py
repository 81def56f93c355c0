"""In front of every endpoint: who may ask, and what a browser may do with an answer; behind it: counts and errors.

A page of another site may make a browser send requests to this machine. So a request that says which site it comes from
(`Origin`) must come from this one, and a server that listens on this machine only must be addressed as such (`Host`): a
name that somebody else points here is refused.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .clients import Gone
from .errors import Refused
from .metrics import Metrics

_LOG = logging.getLogger("neo_lightning.serving")
_OPEN = ("/", "/health")
"""Needs no key: it holds nothing."""
_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class Gate:
    """An ASGI application around another."""

    def __init__(self, app: ASGIApp, metrics: Metrics, endpoints: tuple[str, ...], *, key: str, local: bool) -> None:
        """
        Args:
            app: what it guards.
            metrics: where requests are counted.
            endpoints: paths that are counted by name.
            key: every request must bring it; empty asks for none.
            local: the server listens on this machine only.
        """
        self._app, self._metrics, self._endpoints, self._key, self._local = app, metrics, endpoints, key, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *_HEADERS]}
            await send(message)

        try:
            try:
                self._check(scope)
                await self._app(scope, receive, sent)
            except Refused as error:
                if status:
                    raise
                await _refuse(error, sent)
        except Gone:
            self._metrics.gone += 1
            status = status or 499
        except Exception:
            _LOG.exception("a fault of this program")
            if status:  # half an answer is out: the connection breaks off, which clients see
                raise
            await _refuse(Refused(500, "a fault of this program: the server's log says more"), sent)
        finally:
            path = scope["path"]
            self._metrics.requests[path if path in self._endpoints else "other", status] += 1

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if self._local and not _is_local(host):
            raise Refused(403, f"this server answers to localhost, and was addressed as {host[:80]!r}", code="host")
        origin = headers.get("origin")
        if origin is not None and not _is_of(origin, host):
            raise Refused(403, "pages of other sites may not ask this server", code="origin")
        if self._key and scope["path"] not in _OPEN:
            given = headers.get("authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                raise Refused(
                    401, "the API key is missing or wrong (Authorization: Bearer KEY)", code="invalid_api_key"
                )


async def _refuse(error: Refused, send: Send) -> None:
    body = json.dumps(error.body).encode()
    more = [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": "http.response.start", "status": error.status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def _is_of(origin: str, host: str) -> bool:
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
