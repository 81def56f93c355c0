"""A record's media -> checked files: looked up inside one folder, known by content, with an intact header.

Nothing is downloaded, no device or pipe is opened, and no path or link leads out of the folder.
"""

from __future__ import annotations

import base64
import binascii

from neo_lightning.data.facts import SampleError
from neo_lightning.data.media.image import image_facts
from neo_lightning.data.media.video import video_facts
from neo_lightning.importers.media_folder import MediaFolder
from neo_lightning.importers.record import Medium, RecordError

_IMAGES = {b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp"}


def read_medium(kind: str, medium: Medium, folder: MediaFolder | None) -> tuple[str, bytes]:
    """Extension by content, and the encoded file.

    Args:
        kind: "image" or "video".
        medium: name inside `folder`, a `data:` URL, or the file's content.
        folder: the media folder; None where names are not allowed.

    Raises:
        RecordError: missing, outside the folder, too large, of another kind, or damaged.
    """
    name = "embedded file" if isinstance(medium, bytes) else repr(medium[:200])
    data = medium if isinstance(medium, bytes) else _read_address(medium, folder)
    try:
        image_facts(data) if kind == "image" else video_facts(data)
    except SampleError as error:
        raise RecordError(f"{name}: {error}") from error
    return _extension(data), data


def read_file(name: str, folder: MediaFolder | None) -> bytes:
    """Content of a plain file inside the folder.

    Raises:
        RecordError: no folder; or see `MediaFolder.read`.
    """
    if folder is None:
        raise RecordError(f"{name!r} is a file name: say with --media where it starts")
    return folder.read(name)


def _read_address(address: str, folder: MediaFolder | None) -> bytes:
    if address.startswith("data:"):
        head, comma, body = address.partition(";base64,")
        try:
            if comma:
                return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            pass
        raise RecordError(f"{head[:40]!r}: a data URL must hold base64")
    address = address.removeprefix("file://")
    if "://" in address:
        raise RecordError(f"{address[:80]!r} is no path in the media folder; nothing is downloaded")
    return read_file(address, folder)


def _extension(data: bytes) -> str:
    """Of a file whose header has been checked, so that its format is one of those that are decoded."""
    for start, extension in _IMAGES.items():
        if data.startswith(start):
            return extension
    if data[:4] == b"RIFF":
        return "webp"
    if data[4:8] == b"ftyp":
        return "mov" if data[8:10] == b"qt" else "mp4"
    return "webm" if b"webm" in data[:64] else "mkv"
