"""The endpoints.

GET  /                      the chat page
GET  /health                what is running and waiting; 503 once the server stops
GET  /metrics               the same and more, for Prometheus
GET  /v1/models             the model, and its adapters
POST /v1/chat/completions   OpenAI's (fields.py says what counts)
POST /v1/neo/seen           what the model is shown of a conversation: sizes, tokens, frames
POST /v1/neo/attention      where it looked for a word of an answer
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from .body import parse
from .chat import complete
from .errors import Refused, stopped
from .gate import Gate
from .messages import Turn, read_messages
from .service import Service

PAGE = Path(__file__).with_name("page.html")
_MODELS = "/v1/models"


def application(service: Service, *, key: str = "", local: bool = True) -> ASGIApp:
    """The server as an ASGI application; `key` and `local`: see `Gate`."""
    endpoints = Endpoints(service)
    return Gate(endpoints, service.metrics, tuple(path for _, path in endpoints.table), key=key, local=local)


class Endpoints:
    """By method and path."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._page = PAGE.read_text(encoding="utf-8")
        self._policy = content_policy(self._page)
        self.table = {
            ("GET", "/"): self._get_page,
            ("GET", "/health"): self._health,
            ("GET", "/metrics"): self._metrics,
            ("GET", _MODELS): self._models,
            ("POST", "/v1/chat/completions"): None,
            ("POST", "/v1/neo/seen"): self._seen,
            ("POST", "/v1/neo/attention"): self._attention,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        method, path = scope["method"], scope["path"]
        method = "GET" if method == "HEAD" else method
        if (method, path) not in self.table and path.startswith(f"{_MODELS}/"):
            response: Response = self._model(path.removeprefix(f"{_MODELS}/"))
        elif (method, path) not in self.table:
            if allowed := [m for m, p in self.table if p == path]:
                raise Refused(405, f"{path} takes {allowed[0]}", code="method_not_allowed")
            raise Refused(404, f"there is nothing at {path[:200]}", code="unknown_url")
        elif method == "POST" and self._service.stopping:
            raise stopped()
        elif (endpoint := self.table[method, path]) is None:
            await complete(self._service, scope, receive, send)
            return
        else:
            response = await endpoint(Request(scope, receive))
        await response(scope, receive, send)

    async def _get_page(self, _: Request) -> Response:
        headers = {"Content-Security-Policy": self._policy, "Cache-Control": "no-cache"}
        return Response(self._page, media_type="text/html", headers=headers)

    async def _health(self, _: Request) -> Response:
        stopping = self._service.stopping
        state = {"status": "stopping" if stopping else "ok", **asdict(self._service.batching.load())}
        return JSONResponse(state, status_code=503 if stopping else 200)

    async def _metrics(self, _: Request) -> Response:
        bodies = self._service.bodies
        gauges = {"requests_under_way": bodies.requests, "request_bytes_held": bodies.bytes}
        gauges["pixel_bytes_held"] = self._service.clients.pixel_bytes
        text = self._service.metrics.text(self._service.batching.load(), gauges)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def _models(self, _: Request) -> Response:
        service = self._service
        found = [self._described(name) for name in (service.name, *service.adapters)]
        return JSONResponse({"object": "list", "data": found})

    def _model(self, name: str) -> Response:
        self._service.adapter(name)
        return JSONResponse(self._described(name))

    def _described(self, name: str) -> dict[str, Any]:
        service = self._service
        head = {"id": name, "object": "model", "created": service.started, "owned_by": "neo_lightning"}
        base = {} if name == service.name else {"parent": service.name}
        answering = service.engines[name].answering
        decoding = {**asdict(answering.sampling), "max_tokens": answering.max_new_tokens}
        return {**head, **base, "max_model_len": service.room, "neo": {"decoding": decoding}}

    async def _seen(self, request: Request) -> Response:
        service = self._service
        async with service.bodies.taken(request) as data:
            body = await service.in_thread(lambda: parse(data))
            turns, model = _turns(body, ("model",)), body.get("model", service.name)
            service.adapter(model)
            async with service.clients.watched(request.receive) as client:
                planned = await service.plan(model, turns, client)
            media = [asdict(medium) for medium in service.seen(model, planned)]
            return JSONResponse({"tokens": planned.layout.length, "room": service.room, "media": media})

    async def _attention(self, request: Request) -> Response:
        """`start` and `end`: characters (Unicode code points) of the last message, which is the assistant's."""
        service = self._service
        async with service.bodies.taken(request) as data:
            body = await service.in_thread(lambda: parse(data))
            turns = _turns(body, ("model", "start", "end", "layer"), answered=True)
            answer = "".join(part for part in turns[-1].parts if isinstance(part, str))
            start, end, layer = (body.get(name) for name in ("start", "end", "layer"))
            for name, value in (("start", start), ("end", end), ("layer", 0 if layer is None else layer)):
                if not isinstance(value, int) or isinstance(value, bool):
                    raise Refused(400, f"{name} must be a whole number, found {value!r}"[:200], param=name)
            async with service.clients.watched(request.receive) as client:
                planned, found = await service.attention(turns[:-1], answer, start, end, layer, client)  # type: ignore[arg-type]
            media = [asdict(medium) | {"units": []} for medium in service.seen(service.name, planned)]
            for unit, weights in zip(planned.layout.units, found.units, strict=True):
                media[unit.medium]["units"].append(weights.tolist())
            return JSONResponse({"tokens": found.tokens, "layers": found.layers, "media": media})


def _turns(body: dict[str, Any], known: tuple[str, ...], *, answered: bool = False) -> tuple[Turn, ...]:
    if unknown := [key for key in body if key not in ("messages", *known)]:
        raise Refused(400, f"there is no field {unknown[0][:60]!r}", param=unknown[0][:60], code="unknown_parameter")
    return read_messages(body.get("messages"), answered=answered)


def content_policy(page: str) -> str:
    """What a browser may do on the page: run its own script, talk to this server, show what the user gave; no more."""
    digests = {
        tag: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for tag, text in re.findall(r"<(style|script)>(.*?)</\1>", page, re.DOTALL)
    }
    return (
        f"default-src 'none'; script-src 'sha256-{digests['script']}'; style-src 'sha256-{digests['style']}'; "
        "img-src 'self' data: blob:; media-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
