"""A function over a stream of tasks in several processes: results in the order of the tasks, few of them in flight."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from neo_lightning.importers.convert import Converted, convert
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.task import Job, Task

_IN_FLIGHT = 3
"""Tasks a process, so that none waits for the next."""
_PARALLEL_FROM = 5
"""Tasks: fewer are done sooner than processes start."""

Result = tuple[Task, "os.PathLike[str]", list[Converted]]


def converted(tasks: Iterable[Task], job: Job, workers: int) -> Iterator[Result]:
    """Each task with its file of samples and its records.

    Args:
        workers: processes; below 2, or where there are few tasks, this process does the work.

    Raises:
        RecordError: a process died.
    """
    tasks = iter(tasks)
    ahead = list(itertools.islice(tasks, _PARALLEL_FROM))
    if workers < 2 or len(ahead) < _PARALLEL_FROM:
        for task in itertools.chain(ahead, tasks):
            yield task, *convert(task, job)
        return
    # A server that has imported the package forks the workers: unlike a fork of this process it is safe with threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([convert.__module__])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    flying: deque[tuple[Task, Future[tuple[os.PathLike[str], list[Converted]]]]] = deque()
    try:
        for task in itertools.chain(ahead, tasks):
            flying.append((task, pool.submit(convert, task, job)))
            if len(flying) >= workers * _IN_FLIGHT:
                yield _next(flying)
        while flying:
            yield _next(flying)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(flying: deque[tuple[Task, Future[tuple[os.PathLike[str], list[Converted]]]]]) -> Result:
    task, future = flying.popleft()
    try:
        return task, *future.result()
    except BrokenProcessPool as error:
        raise RecordError(
            f"a process died while records {task.first} to {task.first + task.count - 1} or some after them were read "
            "(out of memory? a crash in a decoder?); the same command goes on from there, --workers 1 finds out more"
        ) from error


def _start_worker() -> None:
    """Leave the interrupt to the main process, and end with it: a killed one cannot tell its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
