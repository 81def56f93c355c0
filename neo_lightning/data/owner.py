"""One owner per folder: a lock that dies with its process, and a file that says who holds it, for other hosts as well.

    FOLDER/run.lock     {"host", "boot", "pid", "since", "command"}; touched every `BEAT` seconds, gone when released

On one host, and on network file systems that pass POSIX locks on (NFSv4, Lustre with `flock`), the kernel's lock
decides: a process that dies, however, holds nothing. Where another host's lock cannot be seen, the file decides: if it
moves, its owner lives. A file that has not been touched for `PATIENCE` seconds has no owner; a younger one is watched
for as long, so that a job that is started again on another host right after a kill gets the folder after that time.
Times are compared on the file server's clock. The trade-off: without such locks two starts within the same instant on
two hosts are not told apart.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from neo_lightning.data.files import fcntl

BEAT = 10.0
"""Seconds between two signs of life."""
PATIENCE = 90.0
"""Seconds without one after which an owner on another host counts as dead; NFS may show old times for 60."""

_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}
_held: set[Path] = set()  # closing a second descriptor of a file would release this process's lock on it


class OwnedError(OSError):
    """Another process owns the folder; the message says which."""


@contextmanager
def owned(file: Path, *, what: str, wait: Callable[[float], None] = time.sleep) -> Iterator[None]:
    """Own the folder of `file` while the block runs.

    Args:
        file: the lock's file; its folder is made, and taken away again if nothing else has come into it.
        what: is owned, for the message, such as "the run runs/demo".
        wait: pauses while another host's owner is watched.

    Raises:
        OwnedError: somebody else does; at once where the kernel's locks tell, within `PATIENCE` seconds otherwise.
    """
    file = file.resolve()
    made = [folder for folder in file.parents if not folder.exists()]
    file.parent.mkdir(parents=True, exist_ok=True)
    if file in _held:
        raise OwnedError(f"{what} is in use by this process itself (pid {os.getpid()})")
    descriptor, told = _lock(file, what)
    _held.add(file)
    released = threading.Event()
    try:
        _wait_for_its_owner(file, descriptor, what, told, wait)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_myself()).encode(), 0)
        threading.Thread(target=_beat, args=(file, released), daemon=True).start()
        try:
            yield
        finally:
            released.set()
            file.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                for folder in made:
                    folder.rmdir()
    finally:
        _held.discard(file)
        os.close(descriptor)


def _lock(file: Path, what: str) -> tuple[int, bool]:
    """A descriptor, and whether it holds the kernel's lock: some file systems have none."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        told = fcntl is not None
        try:
            if told:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            told = False
            if error.errno not in _NO_LOCKS:
                owner = _read(descriptor)
                os.close(descriptor)
                raise OwnedError(_refusal(what, owner)) from error
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(file)):
                return descriptor, told
        os.close(descriptor)  # its last owner deleted it in between


def _wait_for_its_owner(file: Path, descriptor: int, what: str, told: bool, wait: Callable[[float], None]) -> None:
    """Return where the owner that the file names is dead; if it was on this machine, the kernel's lock has `told`."""
    owner, me = _read(descriptor), _myself()
    machine = "boot" if me["boot"] else "host"  # containers of one machine have names of their own
    if not owner or (told and owner.get(machine) == me[machine]):
        return
    last = _touched(descriptor)
    left = PATIENCE - (_now(file.parent) - last)
    if left > 0:
        print(f"{_refusal(what, owner)} Waiting up to {left:.0f} s for a sign of life from there.", file=sys.stderr)
    while left > 0:
        pause = min(BEAT / 2, left)
        wait(pause)
        left -= pause
        if _touched(descriptor) != last:
            raise OwnedError(_refusal(what, _read(descriptor)))


def _beat(file: Path, released: threading.Event) -> None:
    while not released.wait(BEAT):
        with suppress(OSError):
            os.utime(file)  # by its name: a file server then knows at once


def _touched(descriptor: int) -> float:
    return os.fstat(descriptor).st_mtime


def _now(folder: Path) -> float:
    """The file server's clock."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".clock-") as file:
        file.write(b"\0")
        file.flush()
        return os.fstat(file.fileno()).st_mtime


def _myself() -> dict[str, Any]:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return {
        "host": socket.gethostname(),
        "boot": boot,
        "pid": os.getpid(),
        "since": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _read(descriptor: int) -> dict[str, Any]:
    """What the file says; nothing where it is empty or half written."""
    try:
        owner = json.loads(os.pread(descriptor, 1 << 16, 0))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _refusal(what: str, owner: dict[str, Any]) -> str:
    if not owner:
        return f"{what} is in use by another process that has just started."
    return (
        f"{what} is in use by `{owner.get('command')}` on host {owner.get('host')}, pid {owner.get('pid')}, "
        f"since {owner.get('since')}."
    )
