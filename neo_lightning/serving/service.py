"""The model and its threads: turns with addresses -> a prompt, and the tickets of its answers.

Media are read and decoded by a few threads, text is tokenised by others, so that clips that take long keep nobody from
asking about text. Before anything is decoded its headers tell how many tokens and pixels it will be.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import TypeVar

from ..answering import Answering, Engine
from ..answering.attention import Attention, attention
from ..answering.batching import Batching
from ..answering.seen import SeenMedium, plan, read, seen
from ..data.facts import SampleError
from ..data.media.video import limit_decoder
from ..data.text.prompt import PromptPlan
from ..model.lora import use
from ..model.prompt import Prompt
from ..model.sampling import Sampling
from ..types import Media, Message
from .body import Bodies
from .clients import Client, Clients
from .errors import Refused, busy, too_long
from .media import Sources
from .messages import Address, Turn
from .metrics import Metrics

T = TypeVar("T")

MEDIA_THREADS = 2
CLIP_CPU_SECONDS, CLIP_WALL_SECONDS = 20.0, 60.0
CLIP_MEMORY = 2 << 30
"""Address space of the process that decodes a clip."""
MOST_PIXELS = 200_000_000
"""Of all images of a request, as their files hold them."""
MOST_CLIPS = 8
BESIDES = 64
"""Requests under way beside those that wait: read, decoded, answered, sent."""


class Service:
    """What the endpoints share. `close` ends it."""

    def __init__(
        self,
        engine: Engine,
        *,
        name: str,
        adapters: Mapping[str, Answering] | None = None,
        sources: Sources | None = None,
        cache_tokens: int,
        waiting: int,
    ) -> None:
        """
        Args:
            engine: the model; adapters are loaded.
            name: of the model in requests.
            adapters: loaded adapters by name, which is a model's name too, and how each is asked.
            sources: where media may come from.
            cache_tokens, waiting: see `Batching`.
        """
        self.engine, self.name, self.adapters = engine, name, tuple(adapters or ())
        self.engines = {name: engine} | {each: engine.asked(how) for each, how in (adapters or {}).items()}
        """By the name of a model: they differ in how it is asked."""
        self.batching = Batching(
            engine, cache_tokens=cache_tokens, waiting=waiting, use=partial(use, engine.model) if adapters else None
        )
        self.room = min(cache_tokens, engine.model.config.max_position_embeddings)
        """Tokens of a prompt and its answer."""
        self.waiting = waiting
        self.sources = sources or Sources()
        self.bodies, self.clients, self.metrics = Bodies(waiting + BESIDES), Clients(), Metrics()
        self.started = int(time.time())
        self.stopping = False
        self._longest_token = max(len(token) for token in engine.tokenizer.backend.get_vocab())
        self._text = ThreadPoolExecutor(2, "text")
        self._media = ThreadPoolExecutor(MEDIA_THREADS, "media", initializer=_media_thread)
        self._looking = threading.Lock()

    def close(self) -> None:
        """End every answer and all threads; takes as long as what they are in the middle of."""
        self.batching.close()
        for pool in (self._text, self._media):
            pool.shutdown(cancel_futures=True)

    def adapter(self, model: str) -> str | None:
        """The adapter behind a model's name; None for the base.

        Raises:
            Refused: there is no such model.
        """
        if model == self.name:
            return None
        if model not in self.adapters:
            known = ", ".join((self.name, *self.adapters))
            raise Refused(
                404, f"there is no model {str(model)[:80]!r}; there is {known}", param="model", code="model_not_found"
            )
        return model

    def sampling(self, model: str, changes: Mapping[str, float]) -> Sampling:
        """A model's own, changed."""
        return Sampling(**{**asdict(self.engines[model].answering.sampling), **changes})

    async def in_thread(self, what: Callable[[], T]) -> T:
        """Run what needs no medium."""
        return await asyncio.get_running_loop().run_in_executor(self._text, what)

    async def plan(self, model: str, turns: Sequence[Turn], client: Client) -> PromptPlan:
        """The conversation's prompt as a model is asked, of which nothing is decoded yet.

        Raises:
            Refused: a medium that cannot be used, or more than there is room for.
            Gone: the client is.
        """
        return await self._for(client, turns, partial(self._plan, self.engines[model], turns, client))

    async def prompt(
        self, model: str, turns: Sequence[Turn], longest: int | None, client: Client
    ) -> tuple[Prompt, int]:
        """The conversation's prompt, and how many tokens its answer may have.

        Raises:
            Refused, Gone: see `plan`; or a medium is damaged, or too many pixels are held.
        """
        return await self._for(client, turns, partial(self._prompt, self.engines[model], turns, longest, client))

    def seen(self, model: str, planned: PromptPlan) -> list[SeenMedium]:
        """What a model is shown."""
        return seen(self.engines[model], planned)

    async def attention(
        self, turns: Sequence[Turn], answer: str, start: int, end: int, layer: int | None, client: Client
    ) -> tuple[PromptPlan, Attention]:
        """Where the model looked for a word of its answer; one at a time.

        Raises:
            Refused, Gone: see `prompt`; or no such word or layer, or adapters, between which only the batching may
                switch.
        """
        if self.adapters:
            raise Refused(400, "attention is shown by a server without adapters", code="unsupported")
        return await self._for(client, turns, partial(self._attention, turns, answer, start, end, layer, client))

    # ---- in threads

    async def _for(self, client: Client, turns: Sequence[Turn], what: Callable[[], T]) -> T:
        shows = any(isinstance(part, Address) for turn in turns for part in turn.parts)
        pool = self._media if shows else self._text
        return await client.wait(asyncio.get_running_loop().run_in_executor(pool, what))

    def _plan(self, engine: Engine, turns: Sequence[Turn], client: Client) -> PromptPlan:
        letters = sum(len(part.encode()) for turn in turns for part in turn.parts if isinstance(part, str))
        if letters > self.room * self._longest_token:  # whatever the words are; tokenising them takes memory
            raise too_long(f"{letters} bytes of text cannot fit into {self.room} tokens")
        clips = sum(isinstance(part, Address) and part.kind == "video" for turn in turns for part in turn.parts)
        if clips > MOST_CLIPS:
            raise Refused(400, f"{clips} clips are more than {MOST_CLIPS}", param="messages")
        messages = [
            Message(role=turn.role, parts=tuple(self._read(part, client) for part in turn.parts)) for turn in turns
        ]
        try:
            planned = plan(engine, messages)
        except SampleError as error:
            raise Refused(400, str(error), param="messages", code="invalid_media") from error
        if planned.layout.length >= self.room:
            length = planned.layout.length
            raise too_long(f"the conversation has {length} tokens, and there is room for {self.room} with the answer")
        pixels = sum(facts.width * facts.height for facts in planned.facts if facts.kind == "image")
        if pixels > MOST_PIXELS:
            raise Refused(400, f"images of {pixels} pixels together are more than {MOST_PIXELS}", param="messages")
        return planned

    def _read(self, part: str | Address, client: Client) -> str | Media:
        client.check()
        return self.sources.read(part) if isinstance(part, Address) else part

    def _decoded(self, planned: PromptPlan, client: Client) -> Prompt:
        tokens = sum(unit.tokens for unit in planned.layout.units)
        client.hold(4 * tokens * planned.tokenizer.rule.patch_values)  # a byte each, four patches a token
        return read(planned, client.check)

    def _prompt(self, engine: Engine, turns: Sequence[Turn], longest: int | None, client: Client) -> tuple[Prompt, int]:
        planned = self._plan(engine, turns, client)
        left = self.room - planned.layout.length
        if longest is not None and longest > left:
            raise too_long(
                f"the conversation has {planned.layout.length} tokens and the answer may have {longest}: there is room "
                f"for {self.room}"
            )
        try:
            return self._decoded(planned, client), longest or min(engine.answering.max_new_tokens, left)
        except SampleError as error:
            raise Refused(400, str(error), param="messages", code="invalid_media") from error

    def _attention(
        self, turns: Sequence[Turn], answer: str, start: int, end: int, layer: int | None, client: Client
    ) -> tuple[PromptPlan, Attention]:
        planned = self._plan(self.engine, turns, client)
        if not self._looking.acquire(blocking=False):
            raise busy("attention is being computed for somebody")
        try:
            if len(answer) > self.room * self._longest_token:
                raise too_long("the answer is longer than any answer can be")
            if (length := planned.layout.length + len(self.engine.tokenizer.encode_text(answer))) > self.room:
                raise too_long(f"conversation and answer have {length} tokens, and there is room for {self.room}")
            return planned, attention(self.engine, self._decoded(planned, client), answer, start, end, layer=layer)
        except SampleError as error:
            raise Refused(400, str(error), param="messages", code="invalid_media") from error
        except ValueError as error:
            raise Refused(400, str(error)) from error
        finally:
            self._looking.release()


def _media_thread() -> None:
    limit_decoder(cpu_seconds=CLIP_CPU_SECONDS, wall_seconds=CLIP_WALL_SECONDS, memory=CLIP_MEMORY)
