"""A record's media -> checked files: looked up inside one folder, known by content, with an intact header.

Nothing is downloaded, no device or pipe is opened, and no path or link leads out of the folder.
"""

from __future__ import annotations

import base64
import binascii

from neo_lightning.data.facts import SampleError
from neo_lightning.data.media.formats import format_of
from neo_lightning.data.media.image import image_facts
from neo_lightning.data.media.video import video_facts
from neo_lightning.importers.media_folder import SHOWN, MediaFolder
from neo_lightning.importers.record import Medium, RecordError

_SHORTEST = 64
"""Characters of a file in base64; the smallest picture has more."""


def read_medium(kind: str, medium: Medium, folder: MediaFolder | None) -> tuple[str, bytes]:
    """Extension by content, and the encoded file.

    Args:
        kind: "image" or "video".
        medium: name inside `folder`, a `data:` URL, or the file's content.
        folder: the media folder; None where names are not allowed.

    Raises:
        RecordError: missing, outside the folder, too large, of another kind, or damaged.
    """
    name = "embedded file" if isinstance(medium, bytes) else repr(medium[:SHOWN])
    data = medium if isinstance(medium, bytes) else _read_address(medium, folder)
    try:
        image_facts(data) if kind == "image" else video_facts(data)
    except SampleError as error:
        raise RecordError(f"{name}: {error}") from error
    found = format_of(data)
    assert found is not None  # its header has been read
    return found.extensions[0], data


def read_file(name: str, folder: MediaFolder | None) -> bytes:
    """Content of a plain file inside the folder.

    Raises:
        RecordError: no folder; or see `MediaFolder.read`.
    """
    if folder is None:
        raise RecordError(
            f"{name[:SHOWN]!r} is a file name, and the inputs lie in several folders: say with --media where it starts"
        )
    return folder.read(name)


def _embedded(address: str) -> bytes | None:
    """A file as base64 without the head of a `data:` URL, as tables hold it: it has no dot and is of a known format."""
    if len(address) < _SHORTEST or "." in address:
        return None
    try:
        data = base64.b64decode(address, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if format_of(data) else None


def _read_address(address: str, folder: MediaFolder | None) -> bytes:
    if address.startswith("data:"):
        head, comma, body = address.partition(";base64,")
        try:
            if comma:
                return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            pass
        raise RecordError(f"{head[:40]!r}: a data URL must hold base64")
    if (data := _embedded(address)) is not None:
        return data
    if "://" in address:
        raise RecordError(f"{address[:80]!r} is no path in the media folder; nothing is downloaded")
    return read_file(address, folder)
