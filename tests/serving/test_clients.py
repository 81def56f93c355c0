"""Who waits for pictures: clients that go away are not decoded for, a stop tells the others, and pixels are counted."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from contextlib import ExitStack

import pytest

from neo_lightning.answering import Engine
from neo_lightning.answering.batching import Piece
from neo_lightning.answering.seen import plan, read
from neo_lightning.serving import clients
from neo_lightning.serving.answers import Answers
from neo_lightning.serving.clients import Gone
from neo_lightning.serving.service import MEDIA_THREADS
from neo_lightning.types import Media, Message
from tests.serving.conftest import NAME, Running, data_url, picture, serving, shown, until
from tests.serving.test_hostile import HELLO, PATH, _rest, head, raw

SHOWN = shown(data_url(picture((96, 64))))
ANSWERED = [*SHOWN, {"role": "assistant", "content": "red"}]
QUESTIONS = {
    PATH: {"model": NAME, "messages": SHOWN, "max_tokens": 3},
    "/v1/neo/seen": {"messages": SHOWN},
    "/v1/neo/attention": {"messages": ANSWERED, "start": 0, "end": 3},
}
PIXELS = 96 * 64 * 3


def opened(running: Running, path: str, body: object) -> socket.socket:
    """A connection on which this was asked."""
    data = json.dumps(body).encode()
    there = socket.create_connection(("127.0.0.1", running.port), timeout=300)
    there.sendall(head(running, len(data), path) + data)
    return there


def busied(running: Running, released: threading.Event) -> None:
    """Whatever shows something waits until then."""
    begun = threading.Barrier(MEDIA_THREADS + 1)
    for _ in range(MEDIA_THREADS):
        running.service._media.submit(lambda: (begun.wait(60), released.wait()))
    begun.wait(60)


def test_clients_that_go_away_are_not_waited_for_by_their_pictures(engine: Engine) -> None:
    released = threading.Event()
    with serving(engine) as running:
        try:
            busied(running, released)
            for number, (path, body) in enumerate(QUESTIONS.items(), start=1):
                there = opened(running, path, body)
                until(lambda: running.service._media._work_queue.qsize() == 1, running.client())
                there.close()
                until(lambda n=number: running.service.metrics.gone == n, running.client())  # type: ignore[misc]
                assert running.service.bodies.requests == running.service.bodies.bytes == 0
                assert running.service._media._work_queue.get().future.cancelled(), "and it is never begun"
        finally:
            released.set()


def test_a_stop_tells_those_whose_pictures_wait(engine: Engine) -> None:
    released, replies = threading.Event(), list[bytes]()

    def listen(there: socket.socket) -> None:
        try:
            replies.append(_rest(there))
        finally:
            released.set()  # only now the threads are free, without whom the server does not end

    with ExitStack() as server:
        running = server.enter_context(serving(engine, grace=0))
        busied(running, released)
        there = opened(running, PATH, QUESTIONS[PATH])
        until(lambda: running.service._media._work_queue.qsize() == 1, running.client())
        thread = threading.Thread(target=listen, args=(there,))
        thread.start()
        server.close()
        thread.join()
        there.close()
    assert b" 503 " in replies[0]
    assert b"the server is stopping" in replies[0]


def test_nothing_is_decoded_for_nobody(engine: Engine) -> None:
    """Between two media it is asked whether anybody still waits."""
    asked: list[int] = []

    def check() -> None:
        asked.append(1)
        if len(asked) == 2:
            raise Gone

    good, damaged = picture(), picture()[:-40]
    media = tuple(Media(kind="image", data=data) for data in (good, damaged))
    with pytest.raises(Gone):
        read(plan(engine, [Message(role="user", parts=(*media, "What?"))]), check)


def test_decoded_pixels_are_bounded(endless: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MOST_PIXEL_BYTES", 2 * PIXELS)
    asked = {"model": NAME, "messages": SHOWN, "max_tokens": 1900}
    more = json.dumps({**QUESTIONS[PATH], "messages": SHOWN}).encode()
    with serving(endless, cache_tokens=4096) as running, ExitStack() as held:
        for number in (1, 2):
            there = held.enter_context(opened(running, PATH, asked))
            until(lambda n=number: running.service.clients.pixel_bytes == n * PIXELS, running.client())  # type: ignore[misc]
        status, told = raw(running, more)
        assert status == 429
        assert "decoded pictures are held" in told["error"]["message"]
        assert raw(running, json.dumps(HELLO).encode())[0] == 200, "text is answered"
        there.close()
        until(lambda: running.service.clients.pixel_bytes == PIXELS, running.client())
        assert raw(running, more)[0] == 200
        held.close()
        until(lambda: running.service.clients.pixel_bytes == 0, running.client())


def test_one_request_alone_is_bounded_by_its_tokens(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "MOST_PIXEL_BYTES", 1)
    with serving(engine) as running:
        for path, body in QUESTIONS.items():
            assert raw(running, json.dumps(body).encode(), path=path)[0] == 200
        assert running.service.clients.pixel_bytes == 0


def test_a_piece_for_a_loop_that_has_ended_is_dropped(running: Running) -> None:
    async def made() -> Answers:
        return Answers(running.service, 1)

    asyncio.run(made()).on_piece(0, Piece(text="", finish="cancelled", made=0, cached=0))
