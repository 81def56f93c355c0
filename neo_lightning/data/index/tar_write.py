"""The bytes of a tar, member by member: what importers and drawn scenes write, the same bytes for equal content."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator


def tar_member(name: str, data: bytes) -> Iterator[bytes]:
    """Header, content and padding of a file in a tar, the same for equal arguments.

    A ustar header (POSIX.1-2017, `pax`) as `tarfile` makes it, which takes five times as long over it.

    Raises:
        ValueError: a name or a file that is too long for such a header.
    """
    path = name.encode()
    if len(path) > 100 or len(data) >= 8 << 30:
        raise ValueError(f"{name!r} of {len(data)} bytes: a tar holds names of 100 and files of 8 GiB at most")
    head = path.ljust(100, b"\0") + b"0000444\0" + 2 * b"0000000\0"  # mode, owner, group
    head += b"%011o\0%011o\0        0" % (len(data), 0)  # size, date, checksum as blanks, kind: a file
    head = (head.ljust(257, b"\0") + b"ustar\x0000").ljust(tarfile.BLOCKSIZE, b"\0")
    yield b"%b%06o\0 %b" % (head[:148], sum(head), head[156:])
    yield data
    yield bytes(-len(data) % tarfile.BLOCKSIZE)


def tar_end(size: int) -> bytes:
    """What ends a tar of so many bytes: two blocks of zeros, and as many as fill the last record."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)
