"""Files that several processes make and read at once: locks, and files that appear whole or not at all; their text."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # no advisory locks on this system: two processes may do the same work, never half of it
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(file: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold an advisory lock; without effect where the file system has none. `waiting` is called if another holds it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if fcntl is not None:
            _take(descriptor, waiting)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, waiting: Callable[[], None] | None) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting is not None:
            waiting()
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:  # some network file systems have no locks
        pass


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path beside `file` that takes its place when the block ends well, and is removed otherwise."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    os.close(descriptor)
    copy = Path(name)
    try:
        yield copy
        copy.chmod(0o666 & ~_umask())
        os.replace(copy, file)
    finally:
        copy.unlink(missing_ok=True)


def append_whole(file: Path, text: str) -> None:
    """Append to a file; where that fails nothing of the text stays, so that no line is cut."""
    size = file.stat().st_size if file.exists() else 0
    try:
        with file.open("a", encoding="utf-8", newline="") as out:
            out.write(text)
    except OSError:
        with suppress(OSError):
            os.truncate(file, size)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def plain_text(text: str) -> str:
    """Text by the rule for all text that is read: no byte order mark in front, every line ends in one line feed."""
    text = text.removeprefix("\ufeff")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def decode_text(data: bytes) -> str:
    """Text of a file, which is UTF-8, by the rule of `plain_text`.

    Raises:
        UnicodeDecodeError: other bytes.
    """
    return plain_text(data.decode("utf-8"))


def parse_json(text: str) -> Any:
    """JSON, in which a key that stands twice with different values would lose one of them.

    Raises:
        ValueError: it is none, or has such a key.
        RecursionError: it is nested too deep.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next((name for name, value in pairs if found[name] != value), None)
        if twice is not None:
            raise ValueError(f"the key {twice!r} stands twice in one object, with different values")
    return found
