"""What strangers may send: each is refused or cut off by itself, and others are answered."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import zlib
from contextlib import ExitStack
from typing import Any

import pytest

from neo_lightning.answering import Engine
from neo_lightning.serving import body, protocol
from neo_lightning.serving.body import MOST_ESCAPES, MOST_MARKS
from neo_lightning.serving.run import listen
from tests.serving.conftest import NAME, Running, data_url, picture, serving, shown, until

HELLO = {"model": NAME, "messages": [{"role": "user", "content": "copy red"}], "max_tokens": 3}
PATH = "/v1/chat/completions"


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few kilobytes that says it is this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * min(height, 64)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def raw(
    running: Running, data: bytes, *, length: int | None = None, path: str = PATH, more: str = ""
) -> tuple[int, Any]:
    """Status and JSON of a reply to these bytes."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=300) as there:
        there.sendall(head(running, len(data) if length is None else length, path, more) + data)
        reply = b""
        while part := there.recv(1 << 16):
            reply += part
    status, _, text = reply.partition(b"\r\n\r\n")
    return int(status.split()[1]), json.loads(text)


def head(running: Running, length: int, path: str = PATH, more: str = "") -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Content-Length: {length}", "Connection: close"]
    lines += [] if "Host:" in more else [f"Host: 127.0.0.1:{running.port}"]
    return "\r\n".join([*lines, more, ""] if more else [*lines, ""]).encode() + b"\r\n"


BODIES: list[tuple[bytes, int, str]] = [
    (b"", 400, "no JSON"),
    (b"{", 400, "no JSON"),
    (b"\xff\xfe{}", 400, "no JSON"),
    (b"[]", 400, "must be a JSON object"),
    (b'{"model": NaN}', 400, "NaN is no number"),
    (b'{"model": ' + b"1" * 5000 + b"}", 400, "no JSON"),
    (b"[" * 100_000, 400, "nested too deeply"),
    (b'{"a":' * 100_000, 400, "nested too deeply"),
    (b"[" + b"[]," * MOST_MARKS + b"[]]", 400, "brackets and commas"),
    (b'{"model": "' + b"\\n" * (MOST_ESCAPES + 1) + b'"}', 400, "escapes"),
    (json.dumps({**HELLO, "messages": [{"role": "user", "content": "\ud800"}]}).encode(), 400, "no text"),
    (json.dumps({**HELLO, "messages": [{"role": "user", "content": "a" * 20_000_000}]}).encode(), 400, "cannot fit"),
    (json.dumps({**HELLO, "messages": shown(data_url(bomb(1_000_000, 1_000_000)))}).encode(), 400, "too many pixels"),
    (json.dumps({**HELLO, "messages": shown(data_url(bomb(100, 60_000)))}).encode(), 400, "aspect ratio"),
    (json.dumps({**HELLO, "messages": shown(data_url(bomb(9000, 9000)))}).encode(), 400, "damaged"),
    (json.dumps({**HELLO, "messages": shown(data_url(b"\0" * 1000, "video/mp4"), kind="video_url")}).encode(), 400, ""),
    (json.dumps({**HELLO, "messages": shown("x", kind="video_url") * 9}).encode(), 400, "9 clips are more than 8"),
]


@pytest.mark.parametrize(("data", "status", "words"), BODIES, ids=lambda value: str(value)[:30])
def test_bodies(running: Running, data: bytes, status: int, words: str) -> None:
    found, told = raw(running, data)
    assert found == status, told
    assert words in told["error"]["message"]
    assert raw(running, json.dumps(HELLO).encode())[0] == 200


def test_sizes_that_are_only_said(running: Running) -> None:
    assert raw(running, b"", length=1 << 40)[0] == 413
    with socket.create_connection(("127.0.0.1", running.port), timeout=300) as there:
        there.sendall(head(running, 0).replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        part = b"%x\r\n" % (1 << 20) + bytes(1 << 20) + b"\r\n"
        try:
            for _ in range(80):
                there.sendall(part)
        except OSError:
            pass  # cut off: as good as told
        else:
            assert b"413" in there.recv(1 << 16)
    until(lambda: running.service.bodies.bytes == 0, running.client())


def test_what_is_written_is_sent_at_once() -> None:
    """Else the second part of an answer waits 40 ms for the receipt of the first."""
    with listen("127.0.0.1", 0) as sock:
        sock.listen()
        with socket.create_connection(sock.getsockname()), sock.accept()[0] as here:
            here.setblocking(False)
            assert asyncio.run(_no_delay(here))


async def _no_delay(here: socket.socket) -> bool:
    """What asyncio makes of a connection."""
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, here)
    found = bool(here.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
    transport.close()
    return found


def test_other_sites_and_other_names(running: Running) -> None:
    data = json.dumps(HELLO).encode()
    assert raw(running, data, more="Origin: http://evil.example")[0] == 403
    assert raw(running, data, more="Origin: null")[0] == 403
    assert raw(running, data, more="Origin: http://[")[0] == 403
    assert raw(running, data, more=f"Origin: http://127.0.0.1:{running.port}")[0] == 200
    assert raw(running, data, more="Host: evil.example")[0] == 403, "a name that was pointed here"
    assert raw(running, data, more="Host: localhost:1")[0] == 200
    assert raw(running, data, path="/v1/../etc")[0] == 404
    assert raw(running, data, path="/health")[0] == 405


def test_clients_that_go_away_free_their_place(endless: Engine) -> None:
    asked = {**HELLO, "max_tokens": 4000}
    with serving(endless) as running:
        for stream in (True, False):
            data = json.dumps({**asked, "stream": stream}).encode()
            there = socket.create_connection(("127.0.0.1", running.port), timeout=300)
            there.sendall(head(running, len(data)) + data)
            until(lambda: running.service.batching.load().running == 1, running.client())
            there.shutdown(socket.SHUT_WR) if stream else there.close()  # half closed counts as gone
            until(lambda: running.service.batching.load().running == 0, running.client())
            there.close()
        until(lambda: running.service.metrics.gone == 2, running.client())
        assert running.service.bodies.requests == 0


def test_a_full_queue_says_so(endless: Engine) -> None:
    data = json.dumps({**HELLO, "max_tokens": 4000}).encode()
    with serving(endless, waiting=1, cache_tokens=4096) as running, ExitStack() as held:
        for _ in range(2):  # one runs, one waits
            there = held.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=300))
            there.sendall(head(running, len(data)) + data)
            until(lambda: running.service.batching.load().running == 1, running.client())
        until(lambda: running.service.batching.load().waiting == 1, running.client())
        with socket.create_connection(("127.0.0.1", running.port), timeout=300) as there:
            there.sendall(head(running, len(data)) + data)
            reply = there.recv(1 << 16)
        assert b" 429 " in reply
        assert b"retry-after: 2" in reply.lower()
        assert running.client().models.list().data, "others are answered"


def test_requests_under_way_are_bounded(engine: Engine) -> None:
    with serving(engine, waiting=1) as running, ExitStack() as held:
        running.service.bodies.most_requests = 3
        for _ in range(3):  # whose bodies never come
            there = held.enter_context(socket.create_connection(("127.0.0.1", running.port), timeout=300))
            there.sendall(head(running, 100))
        until(lambda: running.service.bodies.requests == 3, running.client())
        assert raw(running, json.dumps(HELLO).encode())[0] == 429


def test_slow_clients_are_cut_off(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(protocol, "UNREAD_SECONDS", 0.3)
    monkeypatch.setattr(body, "BODY_SECONDS", 0.3)
    with serving(engine) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=300) as there:
            there.sendall(b"POST /v1/chat")
            assert _rest(there) == b"", "half a head"
        with socket.create_connection(("127.0.0.1", running.port), timeout=300) as there:
            there.sendall(head(running, 100) + b"{")
            assert b" 408 " in _rest(there), "half a body"
        with socket.socket() as there:
            there.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            there.connect(("127.0.0.1", running.port))
            asks = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n\r\n".encode()
            with pytest.raises((ConnectionResetError, BrokenPipeError)):
                _send_for_ever(there, asks * 1000)  # and read nothing
        until(lambda: running.service.bodies.requests == 0, running.client())
        assert raw(running, json.dumps(HELLO).encode())[0] == 200


def _send_for_ever(there: socket.socket, data: bytes) -> None:
    while True:
        there.sendall(data)


def _rest(there: socket.socket) -> bytes:
    found = b""
    try:
        while part := there.recv(1 << 16):
            found += part
    except ConnectionError:
        pass
    return found


def test_a_stop_lets_answers_end_and_tells_the_others(endless: Engine) -> None:
    for most, grace, words in ((20, 60.0, b"[DONE]"), (4000, 0.0, b"the server is stopping")):
        data = json.dumps({**HELLO, "max_tokens": most, "stream": True}).encode()
        with ExitStack() as server:
            running = server.enter_context(serving(endless, grace=grace))
            there = socket.create_connection(("127.0.0.1", running.port), timeout=300)
            there.sendall(head(running, len(data)) + data)
            first = there.recv(1 << 12)
            assert b"200" in first
            server.close()
            assert words in first + _rest(there)
            there.close()


def test_one_picture_too_many(running: Running) -> None:
    """Each alone is allowed; decoded together they would take minutes."""
    large = data_url(bomb(9900, 9900))
    messages = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": large}}] * 3}]
    status, told = raw(running, json.dumps({**HELLO, "messages": messages}).encode())
    assert status == 400
    assert "pixels together" in told["error"]["message"]
    assert raw(running, json.dumps({**HELLO, "messages": shown(data_url(picture()))}).encode())[0] == 200
