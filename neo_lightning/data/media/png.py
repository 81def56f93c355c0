"""What Pillow should not see of a PNG, and what it does not see itself.

Pillow reads all of a PNG's texts and profiles before its pixels and refuses the picture where one is over a limit. They
change no pixel here, so they are left out unread. Colour keys of grey and RGB pictures are left out too, as Pillow
compares them before it has scaled the samples.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

_KEPT = (b"PLTE", b"IDAT", b"IEND")
_GREY, _RGB, _PALETTE = 0, 2, 3
_LEVELS = {1: 1, 2: 85, 4: 17, 8: 1, 16: 1}
"""What Pillow multiplies a grey sample of so many bits by."""


def lean(data: bytes) -> tuple[bytes, np.ndarray | None]:
    """The picture with nothing but its pixels and orientation, and its colour key.

    An animation is reduced to its default picture. An orientation behind the pixels counts as one before them.

    Returns:
        a PNG, and the key: [1] or [3] samples as Pillow gives them, None where there is none.
    """
    view = memoryview(data)
    kept, turned, key = [view[:8]], [], None
    for kind, at, end in _chunks(data):
        if kind == b"eXIf":
            turned = [view[at:end]]
        elif kind == b"tRNS" and data[25] in (_GREY, _RGB):
            samples = np.frombuffer(data[at + 8 : end - 4][: 2 if data[25] == _GREY else 6], ">u2").astype(np.int64)
            key = samples >> 8 if data[24] == 16 and data[25] == _RGB else samples * _LEVELS.get(data[24], 1)
        elif kind in _KEPT or kind == b"tRNS" or len(kept) == 1:  # the first is the header
            kept.append(view[at:end])
    return b"".join(kept[:2] + turned + kept[2:]), key if key is not None and key.size else None


def ends_early(data: bytes) -> bool:
    """Whether a PNG holds fewer rows than its header says, as Pillow does not: it leaves them 0."""
    width, height = int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")
    bits = data[24] * {_GREY: 1, _RGB: 3, _PALETTE: 1, 4: 2, 6: 4}[data[25]]  # of a pixel
    missing = height * (1 + (width * bits + 7) // 8)  # bytes, each row with its filter; an interlaced one has more
    inflate = zlib.decompressobj()
    for kind, at, end in _chunks(data):
        rest = data[at + 8 : end - 4] if kind == b"IDAT" else b""
        while rest and missing > 0:
            missing -= len(inflate.decompress(rest, 1 << 20))
            rest = inflate.unconsumed_tail
        if missing <= 0:
            return False
    return True


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """(kind, first byte, one past the last byte) of each chunk to the end mark, its length and checksum included."""
    at, kind = 8, b""
    while at + 8 <= len(data) and kind != b"IEND":  # what follows it is no part of the picture
        end, kind = at + 12 + int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        yield kind, at, end
        at = end
