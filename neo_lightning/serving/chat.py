"""`/v1/chat/completions`: a completion as one JSON object, or as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from ..answering.batching import Chosen
from ..data.text.tokenizer import Tokenizer
from .answers import Answers, submitted
from .body import parse
from .errors import Refused
from .fields import Asked, read_asked
from .service import Service


async def complete(service: Service, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request.

    Raises:
        Refused: before anything is sent.
        clients.Gone: the client went away.
    """
    async with AsyncExitStack() as stack:
        data = await stack.enter_async_context(service.bodies.taken(Request(scope, receive)))
        asked = await service.in_thread(lambda: read_asked(parse(data)))
        service.adapter(asked.model)  # before anything dear
        client = await stack.enter_async_context(service.clients.watched(receive))
        prompt, longest = await service.prompt(asked.model, asked.turns, asked.max_new_tokens, client)
        async with submitted(service, asked, prompt, longest, client) as (answers, pieces):
            writer = Writer(service.engine.tokenizer, asked, answers, prompt.input_ids.numel())
            if not asked.stream:
                async for number, piece in pieces:
                    writer.add(number, piece.text, piece.tokens, piece.finish)
                await _send_json(send, writer.whole())
                return
            begun = False
            try:
                async for number, piece in pieces:
                    events = writer.opening() if not begun else []
                    events += writer.events(number, piece.text, piece.tokens, piece.finish)
                    if not begun:
                        await send(_START)
                        begun = True
                    if events:
                        await _send_events(send, events)
                await _send_events(send, writer.closing())
            except Refused as error:
                if not begun:
                    raise
                await _send_events(send, [error.body])
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


class Writer:
    """Pieces -> what OpenAI's clients read."""

    def __init__(self, tokenizer: Tokenizer, asked: Asked, answers: Answers, prompt_tokens: int) -> None:
        self._tokenizer, self._asked, self._answers = tokenizer, asked, answers
        self._prompt_tokens = prompt_tokens
        self._texts: list[list[str]] = [[] for _ in range(asked.n)]
        self._tokens: list[list[dict[str, Any]]] = [[] for _ in range(asked.n)]
        self._finish: list[str | None] = [None] * asked.n
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": asked.model}

    def add(self, number: int, text: str, tokens: Sequence[Chosen], finish: str | None) -> None:
        """Keep a piece for `whole`."""
        self._texts[number].append(text)
        self._tokens[number] += map(self._token, tokens)
        self._finish[number] = finish

    def whole(self) -> dict[str, Any]:
        """The completion."""
        choices = [
            {
                "index": i,
                "message": {"role": "assistant", "content": "".join(self._texts[i]), "refusal": None},
                "logprobs": self._logprobs(self._tokens[i]),
                "finish_reason": self._finish[i],
            }
            for i in range(self._asked.n)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": self._usage()}

    def opening(self) -> list[dict[str, Any]]:
        """A stream's first events."""
        return [self._event(i, {"role": "assistant", "content": ""}, None, None) for i in range(self._asked.n)]

    def events(self, number: int, text: str, tokens: Sequence[Chosen], finish: str | None) -> list[dict[str, Any]]:
        """Those of a piece: none where it has nothing to show."""
        found = []
        if text or tokens:
            logprobs = self._logprobs([self._token(token) for token in tokens])
            found.append(self._event(number, {"content": text}, logprobs, None))
        if finish is not None:
            found.append(self._event(number, {}, None, finish))
        return found

    def closing(self) -> list[dict[str, Any]]:
        """A stream's last ones."""
        if not self._asked.usage:
            return []
        return [{**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}]

    def _event(self, number: int, delta: Mapping[str, str], logprobs: Any, finish: str | None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        event = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return {**event, "usage": None} if self._asked.usage else event

    def _usage(self) -> dict[str, Any]:
        made = sum(self._answers.made)
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self._prompt_tokens + made,
            "prompt_tokens_details": {"cached_tokens": self._answers.cached},
        }

    def _logprobs(self, tokens: list[dict[str, Any]]) -> dict[str, Any] | None:
        return None if self._asked.logprobs is None else {"content": tokens, "refusal": None}

    def _token(self, chosen: Chosen) -> dict[str, Any]:
        likeliest = [self._one(token, logprob) for token, logprob in chosen.top]
        return {**self._one(chosen.token, chosen.logprob), "top_logprobs": likeliest}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token)
        # JSON has no infinity: OpenAI's value for what is next to impossible
        return {"token": data.decode(errors="replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}


_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")],
}


async def _send_events(send: Send, events: Sequence[Mapping[str, Any]]) -> None:
    text = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


async def _send_json(send: Send, value: Mapping[str, Any]) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
