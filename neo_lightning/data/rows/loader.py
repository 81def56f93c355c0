"""Items of a dataset, read ahead by processes in the order asked for. A process may be killed; none can hang it.

    specification -> queue -> thread -> pipe -> process: dataset[specification]
             item <- future <- thread <- pipe <- item

Each process has a pipe and a thread of its own. When it is killed, out of memory perhaps, its thread hands the same
specification to a new process (the dataset is stateless); a second death over it ends the run. Where the next item does
not come in time, the stacks of all processes are printed and the run ends. A wait that a request to stop ends
(`stopping.waiting`) gives `GIVEN_UP` in place of the item, and the pass is over. torch's DataLoader cannot promise
that: its processes share one queue, and one that is killed in the middle of a message leaves everybody waiting for the
rest.

Without workers the training process reads by itself, and nobody watches.
"""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing.util  # its own exit handler, which waits for our processes, has to be registered before ours
import os
import pickle
import queue
import signal
import threading
import time
import traceback
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
from torch.profiler import record_function

from neo_lightning import stopping
from neo_lightning.data.facts import RetryError
from neo_lightning.data.rows import parcel
from neo_lightning.data.rows.ahead import UNDISTURBED

_Jobs = queue.SimpleQueue[tuple[Any, Future[Any]] | None]
"""Specifications, each with the place for its item."""

GIVEN_UP: list[Any] = []
"""In place of an item that nobody waits for any more."""

_STACKS = getattr(signal, "SIGUSR2", None)
"""Makes a process print its stack; not on every system."""
_GRACE_SECONDS = 1.0
"""For what is being read when reading ends."""
_ORPHAN_SECONDS = 1.0
"""How often an idle process looks whether the training process still lives."""


class LoaderError(RetryError):
    """Reading ended for good: processes died twice over one item, or hang."""


class Items(Protocol):
    """A stateless dataset: equal specifications give equal items, in any process."""

    def __getitem__(self, spec: Any) -> Any: ...


class WatchedLoader:
    """Items of a dataset in the order of their specifications; iterable more than once."""

    def __init__(
        self,
        dataset: Items,
        specs: Iterable[Any],
        *,
        workers: int,
        timeout: float,
        ahead: int = 2,
        finish: Callable[[Any], Any] | None = None,
    ) -> None:
        """
        Args:
            dataset: what is read from.
            specs: iterated anew at each pass, in the caller's thread.
            workers: processes, which live as long as a pass; 0 for none.
            timeout: seconds without the next item after which processes count as hanging.
            ahead: items for each process that are asked for before they are wanted.
            finish: applied to each item in this process, beside the caller's work where there are workers.
        """
        self._dataset, self._specs = dataset, specs
        self._workers, self._timeout, self._ahead, self._finish = workers, timeout, ahead, finish or _as_it_is

    def __len__(self) -> int:
        return len(self._specs)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """
        Raises:
            LoaderError: see there; and whatever the dataset raises.
        """
        items = self._read_ahead() if self._workers else (self._finish(self._dataset[spec]) for spec in self._specs)
        with closing(items):
            while True:
                try:
                    with stopping.waiting(), record_function("data"):
                        coming = [next(items)]
                except StopIteration:
                    return
                except stopping.Stopped:
                    if not stopping.is_held():
                        raise
                    yield GIVEN_UP
                    return
                yield coming.pop()  # kept here under no name: it is large

    def _read_ahead(self) -> Generator[Any]:
        specs = iter(self._specs)
        crew = _Crew(self._dataset, self._workers, self._finish)
        try:
            coming = deque(map(crew.submit, islice(specs, self._workers * self._ahead)))
            while coming:
                coming.extend(map(crew.submit, islice(specs, 1)))
                yield crew.result(coming.popleft(), self._timeout)
        finally:
            crew.end(_GRACE_SECONDS)


def _as_it_is(item: Any) -> Any:
    return item


class _Crew:
    """The processes of one pass."""

    def __init__(self, dataset: Items, workers: int, finish: Callable[[Any], Any]) -> None:
        self._jobs: _Jobs = queue.SimpleQueue()
        self._owner = os.getpid()
        self._readers = [_Reader(dataset, self._jobs, finish) for _ in range(workers)]
        for reader in self._readers:  # behind all forks: only the first process of each is forked beside no thread
            reader.thread.start()
        _crews.add(self)

    def submit(self, spec: Any) -> Future[Any]:
        item: Future[Any] = Future()
        self._jobs.put((spec, item))
        return item

    def result(self, item: Future[Any], timeout: float) -> Any:
        try:
            return item.result(timeout)
        except TimeoutError:
            if item.done():  # the dataset's own
                raise
        for reader in self._readers:
            reader.print_stack()
        time.sleep(_GRACE_SECONDS)  # each prints by itself
        self.end(0)
        raise LoaderError(f"no data came for {timeout:g} s: the workers hang; their stacks are printed above")

    def end(self, grace: float) -> None:
        """Stop all processes; those that are busy after `grace` seconds are killed."""
        if self._owner != os.getpid() or not self._readers:  # a fork's copy of the object, or done
            return
        readers, self._readers = self._readers, []
        for reader in readers:
            reader.ending = True
            self._jobs.put(None)
        stop = time.monotonic() + grace
        for reader in readers:
            reader.thread.join(max(0.0, stop - time.monotonic()))
        for reader in readers:
            if reader.thread.is_alive():
                reader.process.kill()
        for reader in readers:
            reader.thread.join(5)


_crews: weakref.WeakSet[_Crew] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for crew in list(_crews):
        crew.end(_GRACE_SECONDS)


class _Reader:
    """A process that reads, and the thread that hands it specifications and takes its items."""

    def __init__(self, dataset: Items, jobs: _Jobs, finish: Callable[[Any], Any]) -> None:
        self._dataset, self._jobs, self._finish = dataset, jobs, finish
        self.ending = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self._begin()

    def _begin(self) -> None:
        with UNDISTURBED:  # another that is forked now would also keep `theirs` open, and its death hidden
            self._pipe, theirs = multiprocessing.Pipe()
            self.process = multiprocessing.Process(target=_serve, args=(self._dataset, theirs), daemon=True)
            self.process.start()
            theirs.close()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            spec, item = job
            if not self.ending:
                try:
                    item.set_result(self._finish(self._read(spec)))
                except BaseException as error:  # whatever it is, the training process has to see it
                    item.set_exception(error)
            del job, item  # it is large, and the next job may be long in coming
        self._stop()

    def _read(self, spec: Any, *, again: bool = True) -> Any:
        try:
            self._pipe.send((spec,))
            item, error = parcel.receive(self._pipe)
        except (EOFError, OSError) as end:
            how = self._stop()
            if self.ending or not again:
                raise LoaderError(f"data workers died twice over {spec!s:.200} (out of memory?): {how}") from end
            warnings.warn(f"a data worker died, a new one takes its work (out of memory?): {how}", stacklevel=2)
            self._begin()
            return self._read(spec, again=False)
        if error is not None:
            raise error
        return item

    def _stop(self) -> str:
        """End the process; says how it ended."""
        with suppress(OSError):
            self._pipe.send(None)
        self.process.join(_GRACE_SECONDS)
        self.process.kill()
        self.process.join()
        self._pipe.close()
        code = self.process.exitcode or 0
        return f"process {self.process.pid} ended " + (
            f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"
        )

    def print_stack(self) -> None:
        if _STACKS is not None and self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, _STACKS)


def _serve(dataset: Items, pipe: Connection) -> None:
    """The process's program: answers (specification,) with (item, error) until None comes or its parent is gone."""
    # a scheduler asks a whole job to stop; a worker that obeyed would take the main process's last save with it
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    if _STACKS is not None:
        faulthandler.register(_STACKS, file=2, all_threads=True)
    torch.set_num_threads(1)
    parent = os.getppid()
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # of the pipe
        while True:
            while not pipe.poll(_ORPHAN_SECONDS):  # it may never end: processes forked later hold it open as well
                if os.getppid() != parent:
                    return
            if (asked := pipe.recv()) is None:
                return
            try:
                parcel.send(pipe, (dataset[asked[0]], None))
            except Exception as error:
                parcel.send(pipe, (None, _portable(error)))


def _portable(error: Exception) -> Exception:
    """The error with its traceback as a note, or what it says where it cannot be sent itself."""
    text = "".join(traceback.format_exception(error))
    error.add_note(f"in a data worker:\n{text}")
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:  # pickle raises nearly anything
        return RuntimeError(text)
