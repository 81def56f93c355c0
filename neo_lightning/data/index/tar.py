"""A WebDataset tar -> its samples one after the other, with their content, checked to the last byte.

**Key rule** (webdataset's): the key is the member's path up to the first dot of its base name; the rest is the
extension. So `a/v1.2/cat.0.jpg` belongs to the sample `a/v1.2/cat` and is its medium number 0. Numbers count from 0
without gaps; `img.0001.jpg, img.0002.jpg` are therefore refused rather than merged into one sample by mistake.

A shard that ends early, has a damaged header, holds one key twice or apart, or holds a member that is not on the
list of extensions is refused as a whole, naming the shard and the byte: webdataset's own reader gives half of such a
shard without an error. Nothing is ever written to disk under a member's name.

Headers are parsed here and not by `tarfile`, which takes most of an index's time for small samples and goes on behind
damage. Understood are V7, ustar, GNU long names and PAX (POSIX.1-2017, `pax`); sparse files are refused. Trade-off:
the tar must be plain (media are compressed already), since members are read at random later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from neo_lightning.data.facts import ShardError
from neo_lightning.data.media.formats import IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

TEXT_EXTENSIONS = ("json", "txt")
EXTENSIONS = TEXT_EXTENSIONS + IMAGE_EXTENSIONS + VIDEO_EXTENSIONS

_BLOCK = 512
_MAX_META = 1 << 20
_ZEROS = bytes(_BLOCK)
_APPLE_DOUBLE = b"\x00\x05\x16\x07"  # RFC 1740

Read = Callable[[int, int], bytes]
"""(offset, length) -> bytes; fewer only at the end of the shard."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a sample inside a shard."""

    name: str
    """As in the tar; bytes that are not UTF-8 are shown as `\\xNN`."""
    extension: str
    """Lower case, without number and dot."""
    number: int | None
    """Of `key.3.jpg`: 3."""
    offset: int
    """First byte of the content in the shard."""
    size: int
    """Bytes."""
    regular: bool
    """False for links and devices, which are never followed."""
    data: bytes = b""
    """Content."""


@dataclass(frozen=True, slots=True)
class TarSample:
    """The members of one key: text first, then media in the order of their numbers."""

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
    if not stem or not extension or (dot and not (number.isdecimal() and len(number) < 10)):
        passed_over = f", or pass such members over by the source's `ignore: [{rest}]`" if rest else ""
        raise ShardError(
            f"member {name!r}: expected KEY.EXTENSION or KEY.NUMBER.EXTENSION (the key ends at the first dot of the "
            f"base name; rename the file without further dots{passed_over})"
        )
    return (f"{folder}/{stem}" if folder else stem), (int(number) if dot else None), extension.lower()


def walk(
    read: Read, size: int, shard: str, ignore: Sequence[str] = (), unused: Counter[str] | None = None
) -> Iterator[TarSample]:
    """Samples of a shard in file order, each when its last member has been read.

    Args:
        read: the shard's content.
        size: its bytes.
        shard: its name, for messages.
        ignore: members are passed over whose base name behind its first dot is one of these.
        unused: gets the number of members that are passed over for what they are, by name: a Mac's tar puts a file's
            attributes in front of it, as `._name` (AppleDouble).

    Raises:
        ShardError: cut or damaged shard; duplicate or scattered key; forbidden member.
    """
    seen: set[str] = set()
    current: str | None = None
    members: list[Member] = []
    passed_over = {ending.lower().removeprefix(".") for ending in ignore}
    for at, name, regular, offset, length in entries(read, size, shard):
        base = name.rpartition("/")[2]
        if passed_over and base.partition(".")[2].lower() in passed_over:
            continue
        if base.startswith("._") and regular and length >= 4 and read(offset, 4) == _APPLE_DOUBLE:
            if unused is not None:
                unused["members ._* (AppleDouble)"] += 1
            continue
        try:
            key, number, extension = split_key(name)
        except ShardError as error:
            raise ShardError(f"shard {shard}, byte {at}: {error}") from error
        if extension not in EXTENSIONS:
            raise ShardError(
                f"shard {shard}, byte {at}: member {name!r}: extension {extension!r} is not read "
                f"(allowed: {', '.join(EXTENSIONS)}); nothing is ever unpickled: write such data into the JSON's "
                f"`meta`, or pass such members over by the source's `ignore: [{extension}]`"
            )
        if key != current:
            if key in seen:
                raise ShardError(f"shard {shard}: members of {key!r} lie apart, or two samples share this key")
            if current is not None:
                yield TarSample(current, _ordered(shard, current, members))
            current, members = key, []
            seen.add(key)
        data = _content(read, offset, length, size, shard, f"member {name!r}")
        members.append(Member(name, extension, number, offset, length, regular, data))
    if current is not None:
        yield TarSample(current, _ordered(shard, current, members))


def entries(read: Read, size: int, shard: str) -> Iterator[tuple[int, str, bool, int, int]]:
    """(header's byte, name, is a file, content's byte, content's length) of all members but folders.

    Raises:
        ShardError: cut or damaged, or of a kind of tar that is not read; perhaps behind the last member.
    """
    at = 0
    extended: dict[str, str] = {}
    while True:
        block = read(at, _BLOCK)
        if len(block) < _BLOCK:
            raise ShardError(f"shard {shard}: cut at byte {size}: the end-of-archive mark is missing")
        if block == _ZEROS:
            _check_tail(read, at, size, shard)
            return
        _check_sum(block, at, shard)
        kind = block[156:157]
        length = _number(block[124:136], at, shard)
        if kind in (b"x", b"g", b"L", b"K"):
            if length > _MAX_META:
                raise ShardError(f"shard {shard}, byte {at}: {length} bytes of names; at most {_MAX_META} are read")
            content = _content(read, at + _BLOCK, length, size, shard, "a long name")
            extended |= _extension(kind, content, at, shard)
            at += _BLOCK + padded(length)
            continue
        name = extended.get("path") or _name(block)
        if "size" in extended:
            length = _decimal(extended["size"], at, shard)
        extended = {}
        regular = kind in (b"0", b"\0", b"7")
        if regular:
            if at + _BLOCK + length > size:
                raise ShardError(f"shard {shard}: cut at byte {size}, inside member {name!r}")
        elif kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
            length = 0
        else:
            raise ShardError(f"shard {shard}, byte {at}: member {name!r} is of kind {kind!r}, which is not read")
        folder = kind == b"5" or (kind == b"\0" and name.endswith("/"))
        if not folder:
            yield at, name, regular, at + _BLOCK, length
        at += _BLOCK + padded(length)


def padded(length: int) -> int:
    """Bytes that content of this length takes in a tar."""
    return -(-length // _BLOCK) * _BLOCK


def _content(read: Read, offset: int, length: int, size: int, shard: str, what: str) -> bytes:
    data = read(offset, length)
    if len(data) < length:
        raise ShardError(f"shard {shard}: cut at byte {size}, inside {what}")
    return data


def _check_sum(block: bytes, at: int, shard: str) -> None:
    """The header's own checksum: the sum of its bytes with the sum's field as blanks; old tars summed signed bytes."""
    stored = _number(block[148:156], at, shard)
    total = sum(block) - sum(block[148:156]) + 256
    if stored != total:
        signed = total - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
        if stored != signed:
            raise ShardError(
                f"shard {shard}: not a readable tar at byte {at}: damaged header (its checksum does not match)"
            )


def _number(field: bytes, at: int, shard: str) -> int:
    """Octal digits, or base 256 behind a byte 0x80 (GNU)."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        text = field.split(b"\0", 1)[0].decode("ascii").strip()
        number = int(text, 8) if text else 0
    except ValueError:
        number = -1
    if number < 0:
        raise ShardError(f"shard {shard}: not a readable tar at byte {at}: damaged header (number {field!r})")
    return number


def _decimal(text: str, at: int, shard: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise ShardError(f"shard {shard}: not a readable tar at byte {at}: size {text!r}")
    return int(text)


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    return _text(name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "backslashreplace")


def _extension(kind: bytes, content: bytes, at: int, shard: str) -> dict[str, str]:
    """What a long-name or PAX member says about the next one: `path` and `size`."""
    if kind == b"L":
        return {"path": _text(content.split(b"\0", 1)[0])}
    if kind == b"K":  # a link's target
        return {}
    found = {}
    while content.rstrip(b"\0"):
        digits, blank, _ = content[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = content[len(digits) + 1 : length - 1].partition(b"=")
        if not (blank and equals and len(digits) + 3 <= length <= len(content)) or content[length - 1] != 10:
            raise ShardError(f"shard {shard}: not a readable tar at byte {at}: damaged PAX header")
        if key.startswith(b"GNU.sparse") or (kind == b"g" and key in (b"path", b"size")):
            raise ShardError(f"shard {shard}, byte {at}: PAX keyword {_text(key)!r} is not read")
        if key in (b"path", b"size"):
            found[key.decode()] = _text(value)
        content = content[length:]
    return found


def _check_tail(read: Read, end: int, size: int, shard: str) -> None:
    """Behind the last member only zeros may follow, two blocks at least: else members are missing."""
    if size - end < 2 * _BLOCK:
        raise ShardError(f"shard {shard}: cut at byte {size}: the end-of-archive mark is missing")
    at = end
    while at < size:
        chunk = read(at, min(1 << 20, size - at))
        if not chunk or chunk.count(0) != len(chunk):
            raise ShardError(f"shard {shard}: damaged header at byte {end}: data follows that is no tar member")
        at += len(chunk)


def _ordered(shard: str, key: str, members: list[Member]) -> tuple[Member, ...]:
    """Text members first, then media in the order of their numbers."""
    if len(members) == 1 and members[0].number is None:
        return tuple(members)
    texts = [m for m in members if m.extension in TEXT_EXTENSIONS]
    media = [m for m in members if m.extension not in TEXT_EXTENSIONS]
    where = f"shard {shard}, sample {key!r}"
    if any(m.number is not None for m in texts) or len({m.extension for m in texts}) < len(texts):
        raise ShardError(f"{where}: more than one JSON or text member ({', '.join(m.name for m in texts)})")
    numbered = sorted((m for m in media if m.number is not None), key=lambda m: m.number or 0)
    if numbered and [m.number for m in numbered] != list(range(len(media))):
        numbers = [m.number for m in media]
        raise ShardError(f"{where}: media must be numbered 0, 1, 2, ... without gaps, found {numbers}")
    if not numbered and len(media) > 1:
        raise ShardError(f"{where}: several media need numbers ({', '.join(m.name for m in media)})")
    return (*texts, *(numbered or media))


class Buffered:
    """Makes small reads, mostly one behind the other, out of large ones."""

    def __init__(self, read: Read, size: int, chunk: int = 4 << 20) -> None:
        self._read, self._size, self._chunk = read, size, chunk
        self._start, self._buffer = 0, b""

    def __call__(self, offset: int, length: int) -> bytes:
        """Bytes from `offset` on; fewer than `length` only at the shard's end."""
        end = min(offset + length, self._size)
        if offset < self._start or end > self._start + len(self._buffer):
            wanted = max(0, min(max(length, self._chunk), self._size - offset))
            self._start, self._buffer = offset, self._read(offset, wanted)
        return self._buffer[offset - self._start : end - self._start] if end > offset else b""
