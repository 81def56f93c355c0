"""Continuous batching: many threads ask one model; nobody's answer depends on the others', nor on who goes away."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.answering import Engine
from neo_lightning.answering.batching import Batching, Piece, QueueFull, Request, Ticket
from neo_lightning.answering.conversation import read_conversation
from neo_lightning.answering.pieces import Stops
from neo_lightning.model.sampling import Sampling

GREEDY = Sampling()
PATIENCE = 120.0
"""Seconds until a test gives up on an answer."""


class Answer:
    """What comes for one request."""

    def __init__(self, stop_at: int = 0) -> None:
        self.pieces: list[Piece] = []
        self.ended = threading.Event()
        self.begun = threading.Event()
        self.held = threading.Event()
        self._stop_at = stop_at

    def __call__(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.begun.set()
        if len(self.pieces) == self._stop_at:
            assert self.held.wait(PATIENCE)
        if piece.finish is not None:
            self.ended.set()

    def wait(self) -> Answer:
        assert self.ended.wait(PATIENCE)
        return self

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)

    @property
    def finish(self) -> str | None:
        return self.pieces[-1].finish


@pytest.fixture
def batching(engine: Engine) -> Iterator[Callable[..., Batching]]:
    made: list[Batching] = []

    def make(**options: Any) -> Batching:
        made.append(Batching(engine, **{"cache_tokens": 4000, "waiting": 50, "prefill": 16, **options}))
        return made[-1]

    yield make
    for one in made:
        one.close()


def request_of(engine: Engine, question: str, images: list[Path] = [], **options: Any) -> Request:  # noqa: B006
    prompt = engine.prompt(read_conversation(question, images=images))
    return Request(prompt=prompt, **{"max_new_tokens": 12, "sampling": GREEDY, **options})


def test_answers_are_those_that_each_gets_alone(
    engine: Engine, media: dict[str, list[Path]], batching: Callable[..., Batching]
) -> None:
    questions = [(f"What is {word}?", media["image"][:i]) for i, word in enumerate(("this", "red", "left of it"))]
    decodings: list[dict[str, Any]] = [{}, {"temperature": 1.2, "top_p": 0.9}, {"repetition_penalty": 1.5}]
    with batching() as server:
        asked, tickets = [], []
        for number, decoding in enumerate(decodings * 2):
            for question, images in questions:
                sampling = Sampling(**decoding)
                asked.append((question, images, decoding, number))
                answer = Answer()
                tickets.append(answer)
                server.submit(request_of(engine, question, images, sampling=sampling, seed=number), answer)
            tickets[-1].begun.wait(PATIENCE)  # the others join while these are being answered
        for (question, images, decoding, seed), answer in zip(asked, tickets, strict=True):
            expected = engine.answer(question, images=images, seed=seed, max_new_tokens=12, **decoding)
            assert answer.wait().text == expected
        load = server.load()
    assert (load.running, load.waiting, load.failed) == (0, 0, 0)
    assert load.kept_hits >= 9, "the second half begins like the first"
    assert 0 < load.cache_used <= load.cache_tokens


def test_a_conversation_goes_on_from_its_cache(
    engine: Engine, media: dict[str, list[Path]], batching: Callable[..., Batching]
) -> None:
    with batching() as server:
        first = Answer()
        request = request_of(engine, "What?", media["image"][:1])
        server.submit(request, first)
        said = first.wait().text
        shown = {"type": "image", "image": media["image"][0]}
        turns = [
            {"role": "user", "content": [shown, "What?"]},
            {"role": "assistant", "content": said},
            {"role": "user", "content": "Sure?"},
        ]
        again = Answer()
        (_, ((_, messages),)) = engine._read(turns, (), ())
        server.submit(replace(request, prompt=engine.prompt(messages)), again)
        assert again.wait().pieces[-1].cached >= len(request.prompt)
        assert again.text == engine.answer(turns, max_new_tokens=12)
        other = Answer()
        server.submit(request_of(engine, "What?", media["image"][1:2]), other)
        assert other.wait().pieces[-1].cached < len(request.prompt) // 2, "another picture"
        assert other.text == engine.answer("What?", images=media["image"][1:2], max_new_tokens=12)


def test_a_stop_text_ends_an_answer_and_is_not_part_of_it(engine: Engine, batching: Callable[..., Batching]) -> None:
    whole = engine.answer("Hello", max_new_tokens=30)
    stop = whole[6:9]
    with batching() as server:
        answer = Answer()
        server.submit(request_of(engine, "Hello", max_new_tokens=30, stop=("never said", stop)), answer)
        assert answer.wait().text == whole[: whole.index(stop)]
        assert answer.finish == "stop"
        assert answer.pieces[-1].made < 30


def test_stop_texts_over_pieces_are_held_back_and_given_back() -> None:
    stops = Stops(("<end>", "xx"))
    assert [stops.add(piece) for piece in ("a<e", "n", "o<", "end", ">b", "c")] == ["a", "", "<eno", "", "", ""]
    assert (stops.found, stops.rest()) == (True, "")
    stops = Stops(("xx",))
    assert [stops.add("ax"), stops.add("bx"), stops.rest(), stops.found] == ["a", "xb", "x", False]


def test_who_goes_away_frees_a_place_for_who_waits(engine: Engine, batching: Callable[..., Batching]) -> None:
    first, second, third = Answer(stop_at=2), Answer(), Answer()
    asked = request_of(engine, "Hello", max_new_tokens=12)
    room = len(request_of(engine, "Hullo").prompt) + 12
    with batching(cache_tokens=room, waiting=2) as server:
        ticket = server.submit(asked, first)
        assert first.begun.wait(PATIENCE)
        tickets: list[Ticket] = [server.submit(request_of(engine, "Hullo"), answer) for answer in (second, third)]
        with pytest.raises(QueueFull, match="2 requests wait"):
            server.submit(asked, Answer())
        tickets[1].cancel()
        ticket.cancel()
        first.held.set()
        assert [answer.wait().finish for answer in (first, third, second)] == ["cancelled", "cancelled", "length"]
        assert len(first.pieces) == 3
        assert third.pieces[-1].made == 0
        assert second.text == engine.answer("Hullo", max_new_tokens=12)


def test_a_listener_that_fails_ends_its_answer_alone(engine: Engine, batching: Callable[..., Batching]) -> None:
    def fails(piece: Piece) -> None:
        raise OSError("gone")

    with batching() as server:
        server.submit(request_of(engine, "Hello", max_new_tokens=500), fails)
        other = Answer()
        server.submit(request_of(engine, "Hello"), other)
        assert other.wait().text == engine.answer("Hello", max_new_tokens=12)
        last = Answer()
        server.submit(request_of(engine, "And?"), last)
        last.wait()
        assert server.load().running == 0


def test_a_step_that_fails_ends_its_answers_and_not_the_next_ones(
    engine: Engine, batching: Callable[..., Batching], caplog: pytest.LogCaptureFixture
) -> None:
    with batching() as server:
        bad = request_of(engine, "Hello")
        ids = bad.prompt.input_ids.clone()
        ids[-1] = 10**6  # no such token
        answer, other = Answer(), Answer()
        server.submit(replace(bad, prompt=replace(bad.prompt, input_ids=ids)), answer)
        assert answer.wait().finish == "failed"
        server.submit(bad, other)
        assert other.wait().text == engine.answer("Hello", max_new_tokens=12)
        assert server.load().failed == 1
    assert "a step failed" in caplog.text


def test_the_end_of_it_is_the_end_of_every_answer(engine: Engine, batching: Callable[..., Batching]) -> None:
    first, second = Answer(stop_at=1), Answer()
    server = batching(cache_tokens=600)
    server.submit(request_of(engine, "Hello", max_new_tokens=500), first)
    assert first.begun.wait(PATIENCE)
    server.submit(request_of(engine, "Hello", max_new_tokens=500), second)
    first.held.set()
    server.close()
    assert [first.finish, second.finish] == ["cancelled", "cancelled"]
    with pytest.raises(QueueFull, match="closing"):
        server.submit(request_of(engine, "Hello"), second)


def test_log_probabilities_come_where_they_are_asked_for(engine: Engine, batching: Callable[..., Batching]) -> None:
    with batching() as server:
        plain, told = Answer(), Answer()
        server.submit(request_of(engine, "Hello"), plain)
        server.submit(request_of(engine, "Hello", logprobs=2), told)
        plain.wait()
        tokens = [token for piece in told.wait().pieces for token in piece.tokens]
    assert not any(piece.tokens for piece in plain.pieces)
    assert (len(tokens), told.text) == (told.pieces[-1].made, plain.text)
    assert all(token.top[0] == (token.token, token.logprob) and len(token.top) == 2 for token in tokens)
    assert told.text == engine.tokenizer.decode([token.token for token in tokens])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_new_tokens": 5000}, "the answer may have 5000: together more than the 4000 that the cache holds"),
        ({"max_new_tokens": 50000}, "than the 40960 that the model's context has"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1"),
        ({"adapter": "cats"}, "there is no adapter 'cats'"),
    ],
)
def test_what_cannot_be_answered_is_refused_at_once(
    engine: Engine, batching: Callable[..., Batching], changes: dict[str, Any], said: str
) -> None:
    with batching() as server, pytest.raises(ValueError, match=said):
        server.submit(request_of(engine, "Hello", **changes), Answer())
