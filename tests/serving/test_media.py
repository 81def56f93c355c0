"""Where media may come from, and where not: folders, links, hosts."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from neo_lightning.answering import Engine
from neo_lightning.serving.errors import Refused
from neo_lightning.serving.fetching import download, fetch, public
from neo_lightning.serving.media import Sources
from neo_lightning.serving.messages import Address
from tests.serving.conftest import NAME, picture, serving, shown


def read(sources: Sources, url: str) -> bytes:
    return sources.read(Address(kind="image", url=url, where="here")).data


def test_files_below_the_root(root: Path) -> None:
    sources = Sources(root)
    (root / "a b").mkdir(exist_ok=True)
    (root / "a b" / "é.png").write_bytes(b"x")
    assert read(sources, f"file://{root}/red.png") == picture()
    assert read(sources, f"file://localhost{root}/a%20b/%C3%A9.png") == b"x"


def test_files_elsewhere_are_not_told_from_missing_ones(root: Path) -> None:
    sources, outer = Sources(root), root.parent
    for link, target in (("link.png", outer / "secret.png"), ("up", outer), ("loop", "loop"), ("dev", "/dev/zero")):
        if not (root / link).is_symlink():
            (root / link).symlink_to(target)
    if not (root / "pipe").exists():
        os.mkfifo(root / "pipe")
    twin = outer / "root-twin"
    twin.mkdir(exist_ok=True)
    (twin / "x.png").write_bytes(b"x")
    names = [
        "missing.png",
        "../secret.png",
        "%2e%2e/secret.png",
        "link.png",
        "up/secret.png",
        "loop",
        "dev",
        "pipe",
        "",
    ]
    for url in [*(f"file://{root}/{name}" for name in names), f"file://{twin}/x.png", "file:///etc/passwd"]:
        with pytest.raises(Refused, match="here: no such file below the media folder"):
            read(sources, url)
    for url in (f"file://elsewhere{root}/red.png", f"file://{root}/red.png?x", f"file://{root}/red.png%00"):
        with pytest.raises(Refused, match=r"expected file|no NUL"):
            read(sources, url)


def test_everything_is_off_unless_named(root: Path) -> None:
    for url, words in (
        (f"file://{root}/red.png", "without --media-root"),
        ("http://example.org/a.png", "none is; see --media-host"),
        ("HTTPS://example.org/a.png", "not allowed"),
        ("gopher://x", "expected a data:"),
        ("red.png", "expected a data:"),
    ):
        with pytest.raises(Refused, match=words):
            read(Sources(), url)
    with pytest.raises(ValueError, match="no such folder"):
        Sources(root / "missing")


def test_hosts_that_lead_back_here() -> None:
    """Allowed by name, yet the address behind the name is this machine's."""
    for url in (
        "http://localhost/a",
        "http://127.0.0.1:1/a",
        "http://[::1]/a",
        "http://0.0.0.0/",
        "http://2130706433/",
    ):
        host = url.split("/")[2].removesuffix(":1").strip("[]")
        with pytest.raises(ValueError, match=r"no host of the open network|cannot be reached"):
            fetch(url, {host})
    with pytest.raises(ValueError, match="user's name"):
        fetch("http://a:b@host/", {"host"})
    with pytest.raises(ValueError, match="not allowed"):
        fetch("http://host@other/", {"host"})


PRIVATE = (
    *("10.0.0.1", "127.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"),
    *("::", "::1", "::ffff:127.0.0.1", "fe80::1%eth0", "fd00::1", "64:ff9b::7f00:1", "2002:7f00:1::"),
)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not public(address)
    assert public("93.184.216.34")
    assert public("2606:4700::1")


@contextmanager
def host(*sent: bytes, close: bool = True) -> Iterator[http.client.HTTPConnection]:
    """A host that sends this to one client; the connection to it."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            there, _ = listener.accept()
            with there:
                try:
                    there.recv(1 << 16)
                    for part in sent:
                        there.sendall(part)
                except OSError:
                    return
                if not close:
                    done.wait()

        thread = threading.Thread(target=answer)
        thread.start()
        connection = http.client.HTTPConnection("127.0.0.1", listener.getsockname()[1])
        connection.connect()
        try:
            yield connection
        finally:
            done.set()
            thread.join()


def test_downloads() -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    with host(head, b"Content-Length: 3\r\n\r\n", b"abc") as connection:
        assert download(connection, "/") == b"abc"
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n"
    with host(moved) as connection, pytest.raises(ValueError, match="answered 302"):
        download(connection, "/")
    with (
        host(head, b"Content-Length: 9\r\n\r\n", b"abc") as connection,
        pytest.raises(ValueError, match=r"broke off|deliver"),
    ):
        download(connection, "/")
    with host(head, b"\r\n", *[bytes(1 << 20)] * 80) as connection, pytest.raises(ValueError, match="more than 64 MB"):
        download(connection, "/")
    for sent in ([], [head], [head, b"\r\nabc"]):  # silent from the start, in its head, in its body
        with host(*sent, close=False) as connection, pytest.raises(ValueError, match=r"within 0\.3 s"):
            download(connection, "/", 0.3)


def test_a_file_is_asked_about(engine: Engine, root: Path) -> None:
    with serving(engine, sources=Sources(root)) as running:
        asked: dict[str, Any] = {"model": NAME, "max_tokens": 6}
        client = running.client()
        found = client.chat.completions.create(messages=shown(f"file://{root}/red.png"), **asked)
        assert found.choices[0].message.content == engine.answer("What is this?", images=[picture()], max_new_tokens=6)
        with pytest.raises(openai.BadRequestError) as told:
            client.chat.completions.create(messages=shown(f"file://{root.parent}/secret.png"), **asked)
        assert told.value.code == "invalid_media"
        assert told.value.param == "messages[0].content[0]"
