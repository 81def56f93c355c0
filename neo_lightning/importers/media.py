"""A record's media -> checked files: looked up inside one folder, known by content, with an intact header.

Nothing is downloaded, no device or pipe is opened, and no path or link leads out of the folder.
"""

from __future__ import annotations

import base64
import binascii
import stat
from pathlib import Path

from neo_lightning.data.facts import SampleError
from neo_lightning.data.media.formats import format_of
from neo_lightning.data.media.image import image_facts
from neo_lightning.data.media.video import video_facts
from neo_lightning.importers.record import Medium, RecordError

MAX_BYTES = 2 << 30
"""A file is read as a whole, here and in training."""


def read_medium(kind: str, medium: Medium, folder: Path | None) -> tuple[str, bytes]:
    """Extension by content, and the encoded file.

    Args:
        kind: "image" or "video".
        medium: name inside `folder`, a `data:` URL, or the file's content.
        folder: the media folder, resolved; None where names are not allowed.

    Raises:
        RecordError: missing, outside the folder, too large, of another kind, or damaged.
    """
    name = "embedded file" if isinstance(medium, bytes) else repr(medium[:200])
    data = medium if isinstance(medium, bytes) else _read_address(medium, folder)
    try:
        image_facts(data) if kind == "image" else video_facts(data)
    except SampleError as error:
        raise RecordError(f"{name}: {error}") from error
    found = format_of(data)
    assert found is not None  # its header has been read
    return found.extensions[0], data


def read_file(name: str, folder: Path | None) -> bytes:
    """Content of a plain file inside the folder.

    Raises:
        RecordError: no folder, no such file, outside the folder, no plain file, or too large.
    """
    if folder is None:
        raise RecordError(f"{name!r} is a file name: say with --media where it starts")
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder):
            raise RecordError(f"{name!r} lies outside the media folder {folder}")
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device never ends
            raise RecordError(f"{name!r} is no plain file")
        if status.st_size > MAX_BYTES:
            raise RecordError(f"{name!r}: {status.st_size} bytes are more than the cap of {MAX_BYTES}")
        return path.read_bytes()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links
        raise RecordError(f"{name!r}: {getattr(error, 'strerror', None) or error}") from error
    except ValueError as error:
        raise error if isinstance(error, RecordError) else RecordError(f"{name!r}: {error}") from error


def _read_address(address: str, folder: Path | None) -> bytes:
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
