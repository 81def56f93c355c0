"""Bytes of a shard, wherever it lies: a local path or any URL that fsspec knows, through one small interface.

    stat -> Stamp      read(offset, length) -> bytes      cached by URL and stamp on local disk

A store that does not answer, answers with an error, or with too few bytes is asked again, waiting longer each time,
until a deadline; then `RetryError` ends the process with the exit status that says 'try again'. What a retry cannot
mend (another file in the shard's place) is a `ShardError` at once.

Remote shards are fetched whole into a bounded folder, oldest out first, since samples are read in a shuffled order;
with `cache_gb: 0` each sample is one ranged read instead. Trade-off: a shard that is drawn from a little only is still
fetched whole. All state is per process: a `Store` survives fork and pickling.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import fsspec

from neo_lightning.data import remote
from neo_lightning.data.answers import Answers, Stamp, at_once
from neo_lightning.data.facts import RetryError, ShardError
from neo_lightning.data.files import locked, replacing

T = TypeVar("T")

_MAX_OPEN_FILES = 32
_CHUNK = 16 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 15.0
_ATTEMPT_SECONDS = 60.0
_SLOWEST = 2e5
"""Bytes per second below which an answer counts as none."""


@dataclass(frozen=True, kw_only=True)
class StoreOptions:
    """How remote shards are read; the manifest's `store:`."""

    cache: str = ""
    """Folder for fetched shards and for the index of what lies where nothing can be written; empty: `$NEO_CACHE`, else
    `~/.cache/neo_lightning`."""
    cache_gb: float = 100.0
    """Most gigabytes (1e9 bytes) of fetched shards; 0 reads ranges and keeps nothing."""
    deadline: float = 300.0
    """Seconds after which a store that does not deliver is given up."""

    def __post_init__(self) -> None:
        if self.cache_gb < 0 or self.deadline < 0:
            raise ValueError(f"store: need cache_gb >= 0 and deadline >= 0, got {self.cache_gb}, {self.deadline}")

    @property
    def folder(self) -> Path:
        """The cache folder."""
        return Path(self.cache or os.environ.get("NEO_CACHE") or "~/.cache/neo_lightning").expanduser()


def is_remote(shard: str) -> bool:
    """Whether a shard is named by a URL."""
    return "://" in shard


class Store:
    """Reads shards by name. Opens lazily, keeps few files open."""

    def __init__(self, options: StoreOptions | None = None, answers: Answers | None = None) -> None:
        """Args: how shards are read, and what the store has said already (`find_all` and `stamps` add to it)."""
        self.options = options or StoreOptions()
        self.answers = answers or Answers()
        self._files: OrderedDict[str, int] = OrderedDict()
        self._pid = os.getpid()

    def stat(self, shard: str, *, retry: bool = True) -> Stamp:
        """Size and version of a shard, asked anew each time.

        Raises:
            FileNotFoundError: there is none, and `retry` is false.
            RetryError: nothing was found, or the store did not answer, until the deadline.
        """

        def ask() -> Stamp:
            if not is_remote(shard):
                found = os.stat(shard)
                return Stamp(found.st_size, str(found.st_mtime_ns))
            return remote.stamp_of(remote.info(shard, min(_ATTEMPT_SECONDS, self.options.deadline)))

        return self._retried(f"shard {shard}", ask, fatal=() if retry else (FileNotFoundError,))

    def stamps(self, shards: Sequence[str]) -> list[Stamp | RetryError]:
        """As `stat` of many at once; what the store has said of one already counts, and why one has no stamp."""

        def ask(shard: str) -> Stamp | RetryError:
            if shard in self.answers.stamps:
                return self.answers.stamps[shard]
            try:
                stamp = self.stat(shard)
            except RetryError as error:
                return error
            if is_remote(shard):
                self.answers.stamps[shard] = stamp
            return stamp

        return at_once(ask, shards)

    def find_all(self, urls: Sequence[str]) -> list[list[str]]:
        """As `find` of many at once; what the store has said of one already counts.

        Raises:
            ImportError, RetryError: see `find`.
        """

        def ask(url: str) -> list[str]:
            if url not in self.answers.found:
                self.answers.found[url] = self.find(url)
            return self.answers.found[url]

        return at_once(ask, urls)

    def find(self, url: str) -> list[str]:
        """URLs that a URL, with `*`, `?` or `[]` or without, stands for, sorted; none where nothing is there.

        Raises:
            ImportError: this kind of address needs a package that is not installed.
            RetryError: the store did not answer.
        """
        limit = min(_ATTEMPT_SECONDS, self.options.deadline)

        def ask() -> list[str]:
            if not any(letter in url for letter in ("*[" if url.startswith("http") else "*?[")):
                self.answers.stamps[url] = remote.stamp_of(remote.info(url, limit))
                return [url]
            system, _ = fsspec.core.url_to_fs(url, use_listings_cache=False)
            found = sorted(system.unstrip_protocol(path) for path in remote.call(url, "glob", limit))
            if not found and "*" not in url:  # a name with brackets in it
                remote.info(url, limit)
                return [url]
            return found

        try:
            return self._retried(url, ask, fatal=(FileNotFoundError, ImportError))
        except FileNotFoundError:
            return []

    def read(self, shard: str, offset: int, length: int, stamp: Stamp) -> bytes:
        """`length` bytes of a shard.

        Raises:
            ShardError: the shard is no longer the one of `stamp`.
            RetryError: see `RetryError`.
        """

        def ask() -> bytes:
            if is_remote(shard) and not self.options.cache_gb:
                return self._ranged(shard, offset, length, stamp)
            data = os.pread(self._open(shard, stamp), length, offset)
            if len(data) != length:
                self._drop(shard)
                self._short(shard, len(data), length, stamp)
            return data

        return self._retried(f"shard {shard}, bytes {offset} to {offset + length}", ask)

    def refetch(self, shard: str, stamp: Stamp) -> None:
        """Forget the local copy of a shard, whose bytes proved wrong."""
        self._drop(shard)
        if is_remote(shard):
            self._cached(shard, stamp).unlink(missing_ok=True)

    def _open(self, shard: str, stamp: Stamp) -> int:
        if self._pid != os.getpid():  # descriptors of the process that this one was forked from are not ours to close
            self._files, self._pid = OrderedDict(), os.getpid()
        if shard not in self._files:
            while len(self._files) >= _MAX_OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            self._files[shard] = self._fetched(shard, stamp) if is_remote(shard) else os.open(shard, os.O_RDONLY)
        self._files.move_to_end(shard)
        return self._files[shard]

    def _drop(self, shard: str) -> None:
        if self._pid == os.getpid() and shard in self._files:
            os.close(self._files.pop(shard))

    def _cached(self, shard: str, stamp: Stamp) -> Path:
        name = hashlib.sha256(f"{shard}\0{stamp.size}\0{stamp.tag}".encode()).hexdigest()[:32]
        return self.options.folder / "shards" / f"{name}.tar"

    def _fetched(self, shard: str, stamp: Stamp) -> int:
        """Descriptor of the local copy, fetched where there is none. A copy that is evicted stays readable by it."""
        file = self._cached(shard, stamp)
        file.parent.mkdir(parents=True, exist_ok=True)
        with locked(file.with_suffix(".lock")):
            if not file.exists():
                with replacing(file) as copy:
                    self._download(shard, stamp, copy)
                self._evict(file)
            os.utime(file)
            return os.open(file, os.O_RDONLY)

    def _download(self, shard: str, stamp: Stamp, file: Path) -> None:
        with file.open("wb") as out:
            for at in range(0, stamp.size, _CHUNK):
                length = min(_CHUNK, stamp.size - at)
                ask = partial(self._ranged, shard, at, length, stamp)
                out.write(self._retried(f"shard {shard}, bytes {at} to {at + length}", ask))
        if (found := self.stat(shard)) != stamp:
            raise replaced(shard, stamp, found)

    def _ranged(self, shard: str, offset: int, length: int, stamp: Stamp) -> bytes:
        """One ranged read, its bytes counted."""
        if not length:
            return b""
        limit = min(_ATTEMPT_SECONDS + length / _SLOWEST, self.options.deadline)
        data = remote.call(shard, "cat_file", limit, start=offset, end=offset + length)
        if len(data) != length:
            self._short(shard, len(data), length, stamp)
        return data

    def _short(self, shard: str, came: int, length: int, stamp: Stamp) -> None:
        """Raise what a wrong number of bytes means."""
        found = self.stat(shard, retry=False)
        if found.size != stamp.size:
            raise replaced(shard, stamp, found)
        if came >= stamp.size > length:
            raise ShardError(f"shard {shard}: the server sends whole files where a range is asked for")
        raise OSError(f"{came} of {length} bytes came")

    def _evict(self, newest: Path) -> None:
        """Remove the shards used longest ago until the rest fits; the newest always stays."""
        with locked(newest.parent / "evict.lock"):
            files = []
            for entry in os.scandir(newest.parent):
                if entry.name.endswith(".tar") and not entry.name.startswith("."):
                    with suppress(FileNotFoundError):
                        found = entry.stat()
                        files.append((found.st_mtime_ns, found.st_size, Path(entry.path)))
            total = sum(size for _, size, _ in files)
            for _, size, file in sorted(files):
                if total <= self.options.cache_gb * 1e9:
                    break
                if file != newest:
                    file.unlink(missing_ok=True)
                    file.with_suffix(".lock").unlink(missing_ok=True)
                    total -= size

    def _retried(self, what: str, ask: Callable[[], T], fatal: tuple[type[Exception], ...] = ()) -> T:
        """The answer; asked again with growing pauses until the deadline."""
        end = time.monotonic() + self.options.deadline
        pause = _FIRST_PAUSE
        while True:
            try:
                return ask()
            except (ShardError, RetryError, *fatal):  # type: ignore[misc]
                raise
            except Exception as error:  # file systems raise nearly anything, from every library below fsspec
                if time.monotonic() + pause > end:
                    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
                    raise RetryError(f"{what}: {reason} (given up after {self.options.deadline:g} s)") from error
            time.sleep(pause * (0.5 + random.random() / 2))  # not all workers at once
            pause = min(2 * pause, _LONGEST_PAUSE)

    def __getstate__(self) -> StoreOptions:
        return self.options

    def __setstate__(self, state: StoreOptions) -> None:
        self.__init__(state)  # type: ignore[misc]

    def __del__(self) -> None:
        if self._pid == os.getpid():
            for file in self._files.values():
                os.close(file)


def replaced(shard: str, stamp: Stamp, found: Stamp) -> ShardError:
    """The error for a shard that is not the one that was indexed."""
    return ShardError(
        f"shard {shard} was replaced after it was indexed ({stamp.size} bytes, version {stamp.tag or 'unknown'}; "
        f"now {found.size} bytes, version {found.tag or 'unknown'}); put the old one back, or start a new run"
    )
