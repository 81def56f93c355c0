"""Tells a person at a terminal how an index gets on: a bar while it is made, a line when it is done."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from neo_lightning.data.index.make import Progress


class ProgressBar(Progress):
    """Context manager for one source. Quiet where nothing has to be done."""

    def __init__(self, name: str) -> None:
        self._name, self._started = name, 0.0
        self._console = Console(file=sys.stderr)
        self._bar: Bar | None = None
        self._task: TaskID
        self._shards = 0

    def waiting(self) -> None:
        """Another process is indexing these shards."""
        self._console.print(f"index of {escape(self._name)}: another process is at it, waiting", highlight=False)

    def begin(self, shards: int, total: int) -> None:
        """So many of all shards have to be indexed."""
        self._shards, self._started = shards, time.perf_counter()
        if not shards:
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Bar(*columns, console=self._console, transient=True)
        self._bar.start()
        self._task = self._bar.add_task(f"indexing {escape(self._name)}", total=shards)

    def advance(self) -> None:
        """One of them is done."""
        if self._bar is not None:
            self._bar.advance(self._task)

    def note(self, text: str) -> None:
        """Something that a person should know."""
        self._console.print(escape(text), highlight=False)

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is None:
            return
        self._bar.stop()
        if kind is None:
            seconds = time.perf_counter() - self._started
            self._console.print(
                f"indexed {escape(self._name)}: {self._shards} shards in {seconds:.1f} s", highlight=False
            )
