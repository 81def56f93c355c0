"""A function over a stream of tasks in several processes: results in the order of the tasks, few of them in flight."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait

from neo_lightning.importers.convert import Converted, at_work, convert, marker
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.task import Job, Task

_IN_FLIGHT = 3
"""Tasks a process, so that none waits for the next."""
_PARALLEL_FROM = 5
"""Tasks: fewer are done sooner than processes start."""

_DEATHS = 2
"""Times that a record may end the process that reads it alone, before it is passed over."""

_Done = tuple["os.PathLike[str]", list[Converted]]
Result = tuple[Task, "os.PathLike[str]", list[Converted]]


def converted(tasks: Iterable[Task], job: Job, workers: int) -> Iterator[Result]:
    """Each task with its file of samples and its records.

    A process that dies (a crash in a decoder or in a user's function, or the system, out of memory) costs no more than
    the record that ends it time and again: that one is left out.

    Args:
        workers: processes; with 0 this process does the work, and where there are few tasks and no user's function.

    Raises:
        RecordError: processes die before they have read anything.
    """
    tasks = iter(tasks)
    ahead = list(itertools.islice(tasks, _PARALLEL_FROM))
    if workers < 1 or (len(ahead) < _PARALLEL_FROM and not job.fields.function):
        for task in itertools.chain(ahead, tasks):
            yield task, *convert(task, job)
        return
    pool = _processes(workers)
    flying: deque[tuple[Task, Future[_Done]]] = deque()
    try:
        for task in itertools.chain(ahead, tasks):
            try:
                flying.append((task, pool.submit(convert, task, job)))
            except BrokenProcessPool:  # the tasks that it held are done again, one by one
                pool.shutdown()
                pool = _processes(workers)
                flying.append((task, pool.submit(convert, task, job)))
            if len(flying) >= workers * _IN_FLIGHT:
                yield _next(flying, job)
        while flying:
            yield _next(flying, job)
    finally:
        pool.shutdown(cancel_futures=True)


def _next(flying: deque[tuple[Task, Future[_Done]]], job: Job) -> Result:
    task, future = flying.popleft()
    try:
        return task, *future.result()
    except BrokenProcessPool:
        return task, *_alone(task, job)


def _alone(task: Task, job: Job) -> _Done:
    """A task in a process of its own, again and again without the records that end it."""
    lost: dict[int, str] = {}
    stop: int | None = None
    deaths: Counter[int] = Counter()
    while True:
        marker(task, job).unlink(missing_ok=True)
        pool = _processes(1)
        try:
            return pool.submit(convert, task, job, lost, stop).result()
        except BrokenProcessPool as error:
            number = at_work(task, job)
            if number is None or number == stop:
                raise RecordError(
                    f"a process died before it had read any of the records {task.first} to "
                    f"{task.first + task.count - 1} (out of memory?); the same command goes on from there"
                ) from error
            deaths[number] += 1
            if number in lost:
                stop = number
            elif deaths[number] == _DEATHS:
                lost[number] = "ends the process that reads it (a crash in a decoder or function, or out of memory)"
        finally:
            pool.shutdown(cancel_futures=True)


def _processes(workers: int) -> ProcessPoolExecutor:
    # A server that has imported the package forks the workers: unlike a fork of this process it is safe with threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([convert.__module__])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)


def _start_worker() -> None:
    """Leave the interrupt to the main process, and end with it: a killed one cannot tell its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
