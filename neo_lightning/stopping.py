"""A request to stop, as one process knows it: who asks, and what becomes of what the process is doing.

    SIGTERM, SIGUSR1, the first Ctrl-C of a training, trainer.max_time, another rank ---> asked
    the second Ctrl-C -----------------------------------------------------------------> ended at once, status 130

    what the main thread does                     what a request does there
    index, plan, export, report, answers          `Stopped` is raised: files appear whole or not at all, nothing is lost
    a training (`held`)                           it is noted, and looked for (`asked`) where all ranks are at one place
    a training's wait for data (also `waiting`)   `Stopped` is raised in the wait, whose end is not needed any more

Python runs a signal's handler in the main thread and not before that thread's next step in Python, which behind a
collective may never come. So a thread reads the signals' numbers as well: it notes the request at once and gives it to
the other ranks through the store of the process group, in which it finds theirs. It is the ranks' only way to one that
waits for data while they wait for it in a collective.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from .exits import INTERRUPTED, TRY_AGAIN

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_KEY = "neo_lightning/stop"
_LOOKS_EVERY = 0.5
"""Seconds between two looks into the store."""
_END = b"\0"


LAUNCHER = "NEO_LIGHTNING_LAUNCHER"
"""Process that has started this one and ends with it (`lightning launch`), in the environment."""
_ORPHAN_SECONDS = 10.0
"""For an orphan that has nothing to save and does not look, as it waits in a library for others."""


class Stopped(BaseException):
    """A stop was asked for; not an Exception, so that nobody takes it for a fault of what they were doing."""

    exit_status = TRY_AGAIN
    told = False
    """Somebody has said so already, with the last step."""


class StoppedTogether(Stopped):
    """Raised on all ranks at the same place of a training, so that they can save."""


class _Request:
    """This process's state. The store's side belongs to the thread."""

    def __init__(self) -> None:
        self.why = ""
        self.held = self.waiting = False
        self.thread: threading.Thread | None = None
        self.store: Any = None
        self.shared = self.woken = self.from_others = False
        self.interrupts = 0

    def note(self, why: str) -> None:
        self.why = self.why or why

    def obey(self) -> None:
        """In the main thread."""
        if self.why and (self.waiting or not self.held):
            raise Stopped(self.why)


_request = _Request()


def asked() -> bool:
    """Whether somebody has asked this process to stop."""
    return bool(_request.why)


def why() -> str:
    """Who asked: a signal's name, a setting, another rank's words."""
    return _request.why


def is_held() -> bool:
    """Whether a training takes the request."""
    return _request.held


def ask(why: str) -> None:
    """Ask from within: a time limit, say. Noted only; nothing is raised."""
    _request.note(why)


@contextmanager
def listening(*, interrupts: bool = False) -> Iterator[None]:
    """Take signals as requests to stop, in the main thread of a process (elsewhere they cannot be taken: nothing).

    Args:
        interrupts: the first Ctrl-C as well; else it stays Python's.
    """
    request = _request
    if request.thread is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    request.__init__()  # type: ignore[misc]  # what an earlier command of this process was asked
    numbers = [*SIGNALS, *([signal.SIGINT] if interrupts else [])]
    before = {number: signal.signal(number, _handle) for number in numbers}
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    woken = signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    request.thread = threading.Thread(target=_watch, args=(reads,), name="stopping", daemon=True)
    request.thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writes, _END)
        request.thread.join()
        request.__init__()  # type: ignore[misc]
        for end in (reads, writes):
            os.close(end)


@contextmanager
def held(store: Any = None) -> Iterator[None]:
    """Within, a request is noted and nothing is raised.

    Args:
        store: the process group's, of a connection of its own; None where there is no other rank.
    """
    request = _request
    request.held, request.store, request.shared = True, store, False
    try:
        yield
    finally:
        request.held, request.store = False, None
        if request.from_others:  # they have had what they asked for
            request.why, request.from_others = "", False


@contextmanager
def waiting() -> Iterator[None]:
    """Within, a request ends what is being done, also in a training.

    Raises:
        Stopped: in the block, or in front of it.
    """
    request = _request
    request.waiting = True
    try:
        request.obey()
        yield
    finally:
        request.waiting = False


def _handle(number: int, frame: Any) -> None:
    """The signals' handler."""
    if _request.woken:  # the thread's, to have the main thread look
        _request.woken = False
        if not _request.held:
            return
    else:
        _request.note(signal.Signals(number).name)
    _request.obey()


def _watch(reads: int) -> None:
    """The thread: signals' numbers, whatever the main thread does, and the store."""
    request, launcher, orphaned = _request, int(os.environ.get(LAUNCHER, 0)), 0.0
    while True:
        if launcher and os.getppid() != launcher:
            if not orphaned:
                request.note("the launcher is gone")  # this process's own: it holds behind the training as well
                _tell_main(request.why)
            if request.held or not orphaned:
                orphaned = time.monotonic()
            elif time.monotonic() - orphaned > _ORPHAN_SECONDS:
                os._exit(TRY_AGAIN)
        if select.select([reads], [], [], _LOOKS_EVERY)[0]:
            numbers = os.read(reads, 64)
            if _END in numbers:
                return
            for number in numbers:
                _heard(signal.Signals(number))
        if (store := request.store) is not None:
            try:
                _share(store)
            except RuntimeError:  # torch's, of a store that is gone: who keeps it ended or was killed
                if request.store is store:
                    request.store = None
                    _tell_main("the process that keeps the ranks' store is gone (rank 0, or its launcher)")


def _heard(number: signal.Signals) -> None:
    request = _request
    if number == signal.SIGINT and signal.getsignal(signal.SIGINT) is _handle:
        request.interrupts += 1
        if request.interrupts > 1:
            _say("interrupted again: ended at once, nothing more is saved")
            os._exit(INTERRUPTED)
        request.note(number.name)
        _say("interrupted: what is begun is finished and saved; Ctrl-C again ends it at once")
    elif number in SIGNALS and not request.woken:
        request.note(number.name)


def _say(sentence: str) -> None:
    """Past Python's buffers, one of which the main thread may hold."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):
            os.write(2, f"\n{sentence}\n".encode())


def _share(store: Any) -> None:
    """Give this rank's request to the others, or take theirs."""
    request = _request
    if request.why and not request.shared:
        store.set(_KEY, request.why)
        request.shared = True
    elif not request.why and store.check([_KEY]):
        request.shared = True
        _tell_main(store.get(_KEY).decode())


def _tell_main(why: str) -> None:
    """Note what others ask, and wake the main thread where it waits."""
    request = _request
    request.from_others = not request.why
    request.note(why)
    request.woken = True
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


def _forget_in_a_child() -> None:
    """A process that is forked off takes no requests: it ends with SIGTERM, and else when its parent says so."""
    request = _request
    if request.thread is None:
        return
    request.__init__()  # type: ignore[misc]
    signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGINT) is _handle:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)


os.register_at_fork(after_in_child=_forget_in_a_child)
