"""An iterator whose next item is made by a thread while the caller works with the last one.

    caller   takes 0 | step 0 ......... | takes 1 | step 1 ......... | takes 2
    thread           | makes 1          |         | makes 2          |

Only one item is ever made in advance, and it begins when the one before is taken: between two items the thread rests
as soon as it is through (`settle`), and what it works with may be used by others. What the iterator raises is raised
where its item would have come.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from neo_lightning import stopping

Item = TypeVar("Item")

UNDISTURBED = threading.Lock()
"""Held while an item is made, and while a process is forked, which would find half-done what it shares with it."""


class OneAhead(Generic[Item]):
    """The items of `items`; to be closed."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._coming: Future[Item] | None = None

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        if self._coming is None:
            self._coming = self._begin()
        item = self._coming.result()
        self._coming = self._begin()
        return item

    def _begin(self) -> Future[Item]:
        """A thread for one item; one that hangs in a store does not keep the process from ending."""
        item: Future[Item] = Future()
        threading.Thread(target=self._make, args=(item,), name="ahead", daemon=True).start()
        return item

    def _make(self, item: Future[Item]) -> None:
        try:
            with UNDISTURBED:
                item.set_result(next(self._items))
        except BaseException as error:  # whatever it is, it is raised where the item would have come
            item.set_exception(error)

    def settle(self) -> None:
        """Wait until the thread rests."""
        if self._coming is not None:
            wait([self._coming])

    def close(self) -> None:
        """Wait for the item that is being made, unless nobody has the time."""
        if not stopping.asked():
            self.settle()
