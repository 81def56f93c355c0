"""The body of a request -> JSON, in bounded memory and time: bytes, brackets and seconds are counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from starlette.requests import ClientDisconnect, Request

from .errors import Refused, busy

BODY_BYTES = 64 << 20
"""Of one request; clips travel inside."""
ALL_BYTES = 512 << 20
"""Of all requests whose bodies are held at a time."""
BODY_SECONDS = 60.0
"""In which a whole body must have come."""
MOST_MARKS = 1_000_000
"""Brackets, braces and commas: each may become a Python object of a hundred bytes."""
MOST_ESCAPES = 4_000_000
"""Backslashes: each takes as long as ten plain letters. A clip whose slashes are escaped has a million."""


class Bodies:
    """Who holds how much."""

    def __init__(self, most_requests: int) -> None:
        """`most_requests` that are under way at a time, from the first byte read to the last one sent."""
        self.most_requests = most_requests
        self.requests = self.bytes = 0

    @asynccontextmanager
    async def taken(self, request: Request) -> AsyncIterator[bytearray]:
        """The request's body, which counts as held within.

        Raises:
            Refused: too many requests or bytes are held, it is too large, or it does not come.
        """
        if self.requests >= self.most_requests:
            raise busy(f"{self.requests} requests are under way, as many as may be")
        self.requests += 1
        held = 0
        try:
            length = request.headers.get("content-length", "")
            if length.isdigit() and int(length) > BODY_BYTES:
                raise _too_large()
            data = bytearray()
            try:
                async with asyncio.timeout(BODY_SECONDS):
                    async for part in request.stream():
                        if len(data) + len(part) > BODY_BYTES:
                            raise _too_large()
                        if self.bytes + len(part) > ALL_BYTES:
                            raise busy(f"{self.bytes >> 20} MB of requests are held, as much as may be")
                        held, self.bytes = held + len(part), self.bytes + len(part)
                        data += part
            except TimeoutError as error:
                raise Refused(408, f"the body did not come within {BODY_SECONDS:.0f} s", code="timeout") from error
            except ClientDisconnect as error:
                raise Refused(400, "the client went away", code="disconnected") from error
            yield data
        finally:
            self.requests -= 1
            self.bytes -= held


def _too_large() -> Refused:
    return Refused(
        413, f"the request is larger than {BODY_BYTES >> 20} MB: send smaller media", code="request_too_large"
    )


def parse(data: bytearray) -> dict[str, Any]:
    """The JSON object of a body, which is emptied: what it says is in the object. For a thread: of a body as large as
    may be it takes up to a second, in which other threads wait.

    Raises:
        Refused: it is none, holds numbers that JSON has not, or is nested or branched beyond reason.
    """
    if sum(data.count(mark) for mark in (b"[", b"{", b",")) > MOST_MARKS:
        raise Refused(400, f"the JSON has more than {MOST_MARKS} brackets and commas", code="invalid_json")
    if data.count(b"\\") > MOST_ESCAPES:
        raise Refused(400, f"the JSON has more than {MOST_ESCAPES} escapes", code="invalid_json")
    try:
        found = json.loads(data, parse_constant=_no_number)
        data.clear()
    except RecursionError as error:
        raise Refused(400, "the JSON is nested too deeply", code="invalid_json") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise Refused(400, f"the body is no JSON: {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise Refused(400, f"the body must be a JSON object, found {type(found).__name__}", code="invalid_json")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
