"""A server with OpenAI's chat completions: asked over HTTP with the standard library alone.

Pictures go as `image_url`, clips as `video_url`, both as `data:` addresses. A question that the server refuses (400,
413, 415, 422) is told with its reason; what may pass (no connection, 429, 5xx) is tried again, and then ends the
evaluation, which goes on from there when it is started again.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...data.facts import RetryError, SampleError
from ...types import Media, Message

_REFUSED = (400, 413, 415, 422)
_AGAIN = (408, 409, 425, 429)
_TRIES = 6
_LONGEST = 16 << 20
"""Bytes of a reply."""


class ChatServer:
    """A model behind an address."""

    def __init__(
        self, base_url: str, model: str, *, timeout: float = 600.0, wait: Callable[[float], None] = time.sleep
    ) -> None:
        """
        Args:
            base_url: such as http://host:8000/v1.
            model: its name there.
            timeout: seconds for one answer.
            wait: pauses between tries.

        Raises:
            ValueError: the address is no http one.
        """
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"{base_url}: expected an address such as http://localhost:8000/v1")
        self.url, self.model = f"{base_url.rstrip('/')}/chat/completions", model
        self._timeout, self._wait = timeout, wait
        self._key = os.environ.get("OPENAI_API_KEY", "")

    def answer(self, messages: Sequence[Message], decoding: Mapping[str, float], seed: int | None = None) -> str:
        """The answer to a conversation.

        Raises:
            SampleError: the server refuses this one.
            ValueError: the address, the model's name or the key is wrong.
            RetryError: the server did not answer.
        """
        body: dict[str, Any] = {"model": self.model, "messages": [_message(message) for message in messages]}
        body |= {("max_tokens" if name == "max_new_tokens" else name): value for name, value in decoding.items()}
        if seed is not None:
            body["seed"] = seed
        data = json.dumps(body).encode()
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                self._wait(min(60.0, 2.0**attempt))
            try:
                return self._once(data)
            except urllib.error.HTTPError as error:
                reason = f"{error.code} {error.reason}: {error.read(400).decode(errors='replace')}".strip()
                if error.code in _REFUSED:
                    raise SampleError(f"the server refuses: {reason}") from error
                if error.code not in _AGAIN and error.code < 500:
                    raise ValueError(f"{self.url}: {reason}") from error
            except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
                reason = str(getattr(error, "reason", error))
        raise RetryError(f"{self.url} did not answer, tried {_TRIES} times: {reason}")

    def _once(self, data: bytes) -> str:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self._key}"} if self._key else {})
        request = urllib.request.Request(self.url, data=data, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=self._timeout) as reply:
            text = reply.read(_LONGEST + 1)
        try:
            content = json.loads(text)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{self.url}: no chat completion: {text[:200].decode(errors='replace')!r}") from error
        return content if isinstance(content, str) else ""


def _message(message: Message) -> dict[str, Any]:
    if all(isinstance(part, str) for part in message.parts):
        return {"role": message.role, "content": "".join(str(part) for part in message.parts)}
    return {"role": message.role, "content": [_part(part) for part in message.parts]}


def _part(part: str | Media) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": str(part)}
    if part.section is not None:
        raise SampleError(f"{part.name}: a section of a clip cannot be asked about through a server; cut it beforehand")
    kind = f"{part.kind}_url"
    sort = _image_type(part.data) if part.kind == "image" else "video/mp4"
    return {"type": kind, kind: {"url": f"data:{sort};base64,{base64.b64encode(part.data).decode()}"}}


def _image_type(data: bytes) -> str:
    known = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
    return "image/" + next((name for start, name in known.items() if data.startswith(start)), "png")
