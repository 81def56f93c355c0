"""A WebDataset tar shard -> its samples as byte spans, checked to the last byte, read without extracting anything.

**Key rule** (webdataset's): the key is the member's path up to the first dot of its base name; the rest is the
extension. So `a/v1.2/cat.0.jpg` belongs to the sample `a/v1.2/cat` and is its medium number 0. Numbers count from 0
without gaps; `img.0001.jpg, img.0002.jpg` are therefore refused rather than merged into one sample by mistake.

A shard that ends early, has a damaged header, holds one key twice or apart, or holds a member that is not on the
list of extensions is refused as a whole, naming the shard and the byte: webdataset's own reader gives half of such a
shard without an error. Trade-off: the tar must be a plain local file (not compressed), since members are read at
random by (offset, size).
"""

from __future__ import annotations

import os
import tarfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
VIDEO_EXTENSIONS = ("mp4", "webm", "mkv", "mov")
TEXT_EXTENSIONS = ("json", "txt")
EXTENSIONS = TEXT_EXTENSIONS + IMAGE_EXTENSIONS + VIDEO_EXTENSIONS

_BLOCK = 512
_MAX_OPEN_FILES = 32


class ShardError(ValueError):
    """The shard cannot be used; the message names the shard and the byte or member."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample inside a shard."""

    name: str
    extension: str
    """Lower case, without number and dot."""
    number: int | None
    """Of `key.3.jpg`: 3."""
    offset: int
    """First byte of the content in the shard."""
    size: int
    """Bytes."""
    regular: bool = True
    """False for links and devices, which are never followed."""


@dataclass(frozen=True, slots=True)
class SampleRef:
    """Where one sample lies: everything that is needed to read it again."""

    shard: str
    key: str
    members: tuple[Member, ...]


def split_key(name: str) -> tuple[str, int | None, str]:
    """Member name -> (key, number or None, extension in lower case).

    Raises:
        ShardError: the base name has no key, no extension, or dots that are not a medium's number.
    """
    folder, _, base = name.rpartition("/")
    stem, _, rest = base.partition(".")
    number, dot, extension = rest.rpartition(".")
    if not stem or not extension or (dot and not number.isdecimal()):
        raise ShardError(
            f"member {name!r}: expected KEY.EXTENSION or KEY.NUMBER.EXTENSION "
            "(the key ends at the first dot of the base name; rename the file without further dots)"
        )
    return (f"{folder}/{stem}" if folder else stem), (int(number) if dot else None), extension.lower()


def scan_shard(path: str | Path) -> list[SampleRef]:
    """Samples of a shard in file order.

    Raises:
        ShardError: missing, empty, compressed, cut or damaged shard; duplicate or scattered key; forbidden member.
    """
    path = Path(path)
    size = _plain_size(path)
    groups: dict[str, list[Member]] = {}
    current, end = None, 0
    try:
        with tarfile.open(path, mode="r:") as tar:
            for info in tar:
                padded = -(-info.size // _BLOCK) * _BLOCK if info.isreg() else 0
                end = info.offset_data + padded
                if end > size:
                    raise ShardError(f"shard {path}: cut at byte {size}, inside member {info.name!r}")
                if info.isdir():
                    continue
                key, member = _member(path, info)
                if key != current and key in groups:
                    raise ShardError(f"shard {path}: members of {key!r} lie apart, or two samples share this key")
                current = key
                groups.setdefault(key, []).append(member)
            _check_tail(path, end, size)
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        if isinstance(error, ShardError):
            raise
        raise ShardError(f"shard {path}: not a readable tar at byte {end}: {error}") from error
    return [SampleRef(str(path), key, _ordered(path, key, members)) for key, members in groups.items()]


def _plain_size(path: Path) -> int:
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(6)
    except OSError as error:
        raise ShardError(f"shard {path}: {error.strerror or error}") from error
    if size == 0:
        raise ShardError(f"shard {path}: zero bytes (an empty shard is a tar of two zero blocks)")
    if head[:2] == b"\x1f\x8b" or head[:3] == b"BZh" or head == b"\xfd7zXZ\x00" or head[:4] == b"\x28\xb5\x2f\xfd":
        raise ShardError(f"shard {path}: compressed; store a plain tar (media are compressed already)")
    return size


def _member(path: Path, info: tarfile.TarInfo) -> tuple[str, Member]:
    try:
        key, number, extension = split_key(info.name)
    except ShardError as error:
        raise ShardError(f"shard {path}, byte {info.offset}: {error}") from error
    if extension not in EXTENSIONS:
        raise ShardError(
            f"shard {path}, byte {info.offset}: member {info.name!r}: extension {extension!r} is not read "
            f"(allowed: {', '.join(EXTENSIONS)}); nothing is ever unpickled, write such data into the JSON's `meta`"
        )
    return key, Member(info.name, extension, number, info.offset_data, info.size, info.isreg())


def _check_tail(path: Path, end: int, size: int) -> None:
    """Behind the last member only zeros may follow, two blocks at least: else members are missing."""
    if size - end < 2 * _BLOCK:
        raise ShardError(f"shard {path}: cut at byte {size}: the end-of-archive mark is missing")
    with path.open("rb") as file:
        file.seek(end)
        while chunk := file.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise ShardError(f"shard {path}: damaged header at byte {end}: data follows that is no tar member")


def _ordered(path: Path, key: str, members: list[Member]) -> tuple[Member, ...]:
    """Text members first, then media in the order of their numbers."""
    texts = [m for m in members if m.extension in TEXT_EXTENSIONS]
    media = [m for m in members if m.extension not in TEXT_EXTENSIONS]
    where = f"shard {path}, sample {key!r}"
    if any(m.number is not None for m in texts) or len({m.extension for m in texts}) < len(texts):
        raise ShardError(f"{where}: more than one JSON or text member ({', '.join(m.name for m in texts)})")
    numbers = [m.number for m in media]
    numbered = sorted((m for m in media if m.number is not None), key=lambda m: m.number or 0)
    if numbered and [m.number for m in numbered] != list(range(len(media))):
        raise ShardError(f"{where}: media must be numbered 0, 1, 2, ... without gaps, found {numbers}")
    if not numbered and len(media) > 1:
        raise ShardError(f"{where}: several media need numbers ({', '.join(m.name for m in media)})")
    return (*texts, *(numbered or media))


class ShardReader:
    """Reads members by (shard, offset, size). Opens lazily, keeps few files open, survives fork and pickling."""

    def __init__(self) -> None:
        self._files: OrderedDict[str, int] = OrderedDict()
        self._pid = os.getpid()

    def read(self, shard: str, member: Member) -> bytes:
        """Content of a member.

        Raises:
            ShardError: the shard is shorter than it was when it was indexed.
        """
        data = os.pread(self._open(shard), member.size, member.offset)
        if len(data) != member.size:
            raise ShardError(
                f"shard {shard}: {len(data)} of {member.size} bytes of {member.name!r}; was the shard replaced?"
            )
        return data

    def _open(self, shard: str) -> int:
        if self._pid != os.getpid():  # a worker must not share offsets' lifetime with the process it came from
            self._files, self._pid = OrderedDict(), os.getpid()
        if shard not in self._files:
            while len(self._files) >= _MAX_OPEN_FILES:
                os.close(self._files.popitem(last=False)[1])
            try:
                self._files[shard] = os.open(shard, os.O_RDONLY)
            except OSError as error:
                raise ShardError(f"shard {shard}: {error.strerror or error}") from error
        self._files.move_to_end(shard)
        return self._files[shard]

    def __getstate__(self) -> dict[str, int]:
        return {}

    def __setstate__(self, state: dict[str, int]) -> None:
        self.__init__()  # type: ignore[misc]

    def __del__(self) -> None:
        if self._pid == os.getpid():
            for file in self._files.values():
                os.close(file)
