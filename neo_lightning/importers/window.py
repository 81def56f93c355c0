"""A sliding window over a JSON file: values one by one, in constant memory.

The window grows while a value is incomplete and forgets what has been read. So memory is that of the largest value.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import IO

from neo_lightning.importers.error import RecordError

MAX_RECORD = 64 << 20
"""Characters of one record."""
CHUNK = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_MAY_GO_ON = ("", *".eE+-0123456789")
"""Behind a number that the window has cut, as in `12` of `12.5`; nothing at all is the window's end."""


class Window:
    """The part of a text file that is being read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._decoder = file, codecs.getincrementaldecoder("utf-8-sig")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at = "", 0
        self.line = 1
        """Line of the next character."""

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None  # it matches nothing at all as well
            self._pass(match.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._grow():
                return ""

    def take(self, expected: str) -> None:
        """Step over a character."""
        if (found := self.peek()) != expected:
            raise RecordError(f"expected {expected!r}, found {found!r}" if found else "the file ends too early")
        self._pass(self._at + 1)

    def object(self) -> Iterator[str]:
        """Keys of the object that starts here; the caller reads each one's value before the next.

        Raises:
            RecordError, ValueError: it is broken there.
        """
        self.take("{")
        while self.peek() != "}":
            key = json.loads(self.value())
            if not isinstance(key, str):
                raise RecordError("a key must be a string")
            self.take(":")
            yield key
            if self.peek() != "}":
                self.take(",")

    def value(self, *, last: bool = False) -> str:
        """Text of the JSON value that starts here; the window grows until it is complete. `last`: the file may end."""
        while True:
            error: Exception | None = None
            try:
                end = self._parse(self._text, self._at)[1]
                if self._text[end : end + 1] not in _MAY_GO_ON:
                    text = self._text[self._at : end]
                    self._pass(end)
                    return text
            except ValueError as caught:
                error = caught
            if len(self._text) - self._at > MAX_RECORD:
                raise RecordError(f"broken, or more than {MAX_RECORD >> 20} MiB ({error})")
            if not self._grow():
                if error is None and last:
                    text, self._at = self._text[self._at :], len(self._text)
                    return text
                raise error or RecordError("the file ends too early")

    def _grow(self) -> bool:
        """Read on, at least doubling what is held, so that long elements are not parsed too often."""
        self._text, self._at = self._text[self._at :], 0
        while data := self._file.read(max(CHUNK, len(self._text))):
            if more := self._decoder.decode(data):
                self._text += more
                return True
        self._decoder.decode(b"", final=True)
        return False

    def _pass(self, end: int) -> None:
        self.line += self._text.count("\n", self._at, end)
        self._at = end
