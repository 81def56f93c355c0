"""A server over a real socket, in front of a tiny random model."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from PIL import Image

from neo_lightning.answering import Answering, Engine
from neo_lightning.serving.app import application
from neo_lightning.serving.media import Sources
from neo_lightning.serving.run import Server, listen
from neo_lightning.serving.service import Service
from tests.answering.conftest import config, engine, folder, media, shards, tokenizer, tokenizer_folder

__all__ = ["config", "engine", "folder", "media", "shards", "tokenizer", "tokenizer_folder"]

NAME = "tiny"


class Running:
    """A server, and where it is."""

    def __init__(self, service: Service, port: int) -> None:
        self.service, self.port = service, port
        self.address = f"http://127.0.0.1:{port}"

    def client(self, key: str = "none", **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.address}/v1", api_key=key, max_retries=0, **options)


@contextmanager
def serving(
    engine: Engine,
    *,
    cache_tokens: int = 4096,
    waiting: int = 64,
    grace: float = 20,
    key: str = "",
    sources: Sources | None = None,
    adapters: Mapping[str, Answering] | None = None,
) -> Iterator[Running]:
    """Serve within the block; in a thread, as the block is the client."""
    sock, started = listen("127.0.0.1", 0), threading.Event()
    room = {"cache_tokens": cache_tokens, "waiting": waiting}
    service = Service(engine, name=NAME, adapters=adapters, sources=sources, **room)
    server = Server(application(service, key=key), service, grace=grace, ready=started.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])))
    port = sock.getsockname()[1]
    thread.start()
    try:
        assert started.wait(60)
        yield Running(service, port)
    finally:
        server.should_exit = True
        thread.join()
        service.close()


@pytest.fixture(scope="session")
def endless(engine: Engine) -> Engine:
    """The same model, whose answers have no end but their length."""
    found = engine.asked(engine.answering)
    found.stop_ids = ()  # type: ignore[assignment]
    return found


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The media root, and a picture beside it."""
    root = tmp_path_factory.mktemp("outer") / "root"
    root.mkdir()
    (root / "red.png").write_bytes(picture())
    (root.parent / "secret.png").write_bytes(picture())
    return root


@pytest.fixture(scope="module")
def running(engine: Engine, root: Path) -> Iterator[Running]:
    """One server for a file of tests."""
    with serving(engine, sources=Sources(root)) as found:
        yield found


@pytest.fixture(scope="module")
def client(running: Running) -> openai.OpenAI:
    return running.client()


def picture(size: tuple[int, int] = (70, 50), colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def shown(url: str, text: str = "What is this?", kind: str = "image_url") -> list[dict[str, Any]]:
    """A question about one medium."""
    return [{"role": "user", "content": [{"type": kind, kind: {"url": url}}, {"type": "text", "text": text}]}]


def until(happened: Callable[[], bool], client: Any) -> None:
    """Ask the server for its health, again and again, until something has happened there."""
    for _ in range(10_000):
        if happened():
            return
        client.models.list()
    raise AssertionError("it did not happen")
