"""Who answers: an engine in this process, or a server. Both take a batch of questions and give texts or reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ...answering import Answering, Engine
from ...answering.settings import built
from ...data.facts import SampleError, reason_kind
from ...model.prompt import Prompt
from ...model.sampling import Sampling
from ..benchmarks import Benchmark
from ..benchmarks.words import messages_of
from ..item import Item
from .server import ChatServer


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What comes back for one question."""

    answer: str = ""
    reason: str = ""
    """Why there is no answer; empty where there is one."""


class Answerer(Protocol):
    """Whoever answers questions of one benchmark."""

    def answer(self, items: Sequence[Item]) -> list[Reply]:
        """One reply each, in order."""


class EngineAnswerer:
    """A model in this process, asked as a benchmark says; a batch goes through it as one packed row."""

    def __init__(self, engine: Engine, benchmark: Benchmark, decoding: Mapping[str, float], seed: int) -> None:
        """
        Args:
            engine: with the budgets that count where the benchmark has none.
            benchmark: what is asked.
            decoding: in place of the engine's; names as in `answering.engine.Decoding`.
            seed: a question's random draws come from this plus its number in the data.
        """
        self._benchmark, self._seed = benchmark, seed
        self.engine = engine.asked(asked_as(engine.answering, benchmark, decoding))

    def answer(self, items: Sequence[Item]) -> list[Reply]:
        """Answers of a batch, or the reason why a question cannot be put."""
        prompts: dict[int, Prompt] = {}
        replies = [Reply()] * len(items)
        for place, item in enumerate(items):
            try:
                prompts[place] = self.engine.prompt(messages_of(item, self._benchmark))
            except SampleError as error:
                replies[place] = Reply(reason=str(error))
        for run in _runs(list(prompts), items, apart=self.engine.answering.sampling.temperature > 0):
            texts = self.engine.texts([prompts[place] for place in run], seed=self._seed + items[run[0]].number)
            for place, text in zip(run, texts, strict=True):
                replies[place] = Reply(answer=text)
        return replies


def _runs(places: Sequence[int], items: Sequence[Item], *, apart: bool) -> list[list[int]]:
    """Places that go through the model together. Where answers are drawn, only questions that follow each other do: a
    batch seeds its draws by rising numbers."""
    if not apart:
        return [list(places)] if places else []
    runs: list[list[int]] = []
    for place in places:
        if runs and items[place].number == items[runs[-1][-1]].number + 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


class ServerAnswerer:
    """A model behind an address; questions of a batch are asked at the same time."""

    def __init__(self, server: ChatServer, benchmark: Benchmark, decoding: Mapping[str, float], seed: int) -> None:
        self._server, self._benchmark, self._decoding, self._seed = server, benchmark, dict(decoding), seed

    def answer(self, items: Sequence[Item]) -> list[Reply]:
        """Answers of a batch, or the server's reason for refusing one."""
        with ThreadPoolExecutor(max(1, len(items))) as threads:
            return list(threads.map(self._one, items))

    def _one(self, item: Item) -> Reply:
        try:
            messages = messages_of(item, self._benchmark)
            return Reply(answer=self._server.answer(messages, self._decoding, self._seed + item.number))
        except SampleError as error:
            return Reply(reason=str(error))


def asked_as(answering: Answering, benchmark: Benchmark, decoding: Mapping[str, float]) -> Answering:
    """How a model is asked by a benchmark: its budgets where it has some, and the decoding."""
    changes: dict[str, Any] = dict(decoding)
    most = int(changes.pop("max_new_tokens", answering.max_new_tokens))
    return replace(
        answering,
        image=benchmark.image or answering.image,
        video=benchmark.video or answering.video,
        sampling=built(Sampling, changes, "decoding"),
        max_new_tokens=most,
    )


def kind_of(reason: str) -> str:
    """A reason without what tells its cases apart, for counting."""
    return reason_kind(reason)[:160]
