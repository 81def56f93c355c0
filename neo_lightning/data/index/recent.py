"""The last few values made by a function: columns of the shard parts that are being read from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

SHARD_PARTS_KEPT = 32
"""Shard parts whose columns stay in memory, in each process."""
SAMPLES_KEPT = 256
"""Samples whose facts stay in memory: a row's are looked at once for its text and once for its media."""

T = TypeVar("T")


class Recent:
    """The last few values made by a function of a key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[Any, Any] = OrderedDict()

    def get(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self._values:
            self._values[key] = make()
            while len(self._values) > self._most:
                self._values.popitem(last=False)
        self._values.move_to_end(key)
        return self._values[key]

    def __getstate__(self) -> int:
        return self._most

    def __setstate__(self, most: int) -> None:
        self.__init__(most)  # type: ignore[misc]
