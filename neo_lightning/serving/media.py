"""Addresses of images and clips -> their bytes: embedded, below one folder, or from hosts that were allowed.

data:image/png;base64,...     as OpenAI's clients send them
file:///folder/photo.jpg      below --media-root only, wherever links lead
https://host/photo.jpg        of a --media-host only
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..types import Media
from .body import BODY_BYTES
from .errors import Refused
from .fetching import fetch
from .messages import Address


class Sources:
    """Where media may come from; embedded ones may always."""

    def __init__(self, root: Path | None = None, hosts: tuple[str, ...] = ()) -> None:
        """
        Args:
            root: the folder of `file://` addresses; None refuses them all.
            hosts: names that http(s) addresses may have; none refuses them all.

        Raises:
            ValueError: no such folder.
        """
        if root is not None and not root.is_dir():
            raise ValueError(f"--media-root {root}: no such folder")
        self.root = None if root is None else root.resolve()
        self.hosts = frozenset(host.lower() for host in hosts)

    def read(self, address: Address) -> Media:
        """The medium; for a thread, as it may wait for a disk or a network.

        Raises:
            Refused: an address that is not allowed, or nothing there.
        """
        scheme = address.url[:8].partition(":")[0].lower()
        try:
            if scheme == "data":
                data = _embedded(address.url)
            elif scheme == "file":
                data = self._file(address.url)
            elif scheme in ("http", "https"):
                data = fetch(address.url, self.hosts)
            else:
                raise ValueError("expected a data:, file:// or http(s):// address")
        except ValueError as error:
            raise Refused(400, f"{address.where}: {error}", param=address.where, code="invalid_media") from error
        return Media(kind=address.kind, data=data, name=address.where)

    def _file(self, url: str) -> bytes:
        if self.root is None:
            raise ValueError("file:// addresses are off: this server was started without --media-root")
        parts = urlsplit(url)
        if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
            raise ValueError("expected file:///folder/name")
        if "\0" in (name := unquote(parts.path)):
            raise ValueError("a file's name has no NUL")
        # one answer for what is not there and what is elsewhere: nobody learns what lies outside
        refusal = ValueError("no such file below the media folder")
        try:
            path = Path(os.path.realpath(name))
            if not path.is_relative_to(self.root):
                raise refusal
            # a link put there in between is not followed; a pipe does not block
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise refusal
                data = file.read(BODY_BYTES + 1)
        except OSError as error:
            raise refusal from error
        if len(data) > BODY_BYTES:
            raise ValueError(f"the file is larger than {BODY_BYTES >> 20} MB")
        return data


def _embedded(url: str) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise ValueError("expected data:TYPE;base64,TEXT")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the data: address is no base64: {error}") from error
