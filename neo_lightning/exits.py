"""How a process of this package ends: the one table of its exit statuses, for shells, schedulers and launchers."""

from __future__ import annotations

import errno
from collections.abc import Iterable

DONE = 0
BUG = 1
USER_ERROR = 2
EVALUATION_FAILED = 3
TRY_AGAIN = 75
RANK_LOST = 76
NUMBERS_BROKEN = 77
CANNOT_SAVE = 78
INTERRUPTED = 130

MEANING = {
    DONE: "done",
    BUG: "a bug: a traceback was printed",
    USER_ERROR: "the input is wrong, and trying again will not help",
    EVALUATION_FAILED: "trained, but an evaluation found what must not happen",
    TRY_AGAIN: "asked to stop and saved, or a store did not deliver: the same command goes on",
    RANK_LOST: "a rank was lost or hung: the same command goes on from the last checkpoint",
    NUMBERS_BROKEN: "loss or gradients are not finite, again and again: look before you start it again",
    CANNOT_SAVE: "checkpoints cannot be written: make room, then the same command goes on",
    INTERRUPTED: "interrupted at once (a second Ctrl-C), nothing saved",
}
"""Status -> what it says."""

OUTCOMES = {
    DONE: "done",
    BUG: "bug",
    USER_ERROR: "refused",
    EVALUATION_FAILED: "evaluation failed",
    TRY_AGAIN: "try again",
    RANK_LOST: "rank lost",
    NUMBERS_BROKEN: "numbers broken",
    CANNOT_SAVE: "cannot save",
    INTERRUPTED: "interrupted",
}
"""Status -> the same for programs."""

_TELLING = (
    USER_ERROR,
    NUMBERS_BROKEN,
    CANNOT_SAVE,
    BUG,
    INTERRUPTED,
    TRY_AGAIN,
    RANK_LOST,
    EVALUATION_FAILED,
    DONE,
)


def status_of(error: BaseException) -> int:
    """How an error ends its process: the `exit_status` of its class, or that of a bug.

    A class whose errors are raised on every rank alike says so with `on_every_rank`: rank 0 tells of them. A full disk
    is no bug, whoever meets it.
    """
    return getattr(error, "exit_status", CANNOT_SAVE if disk_full(error) else BUG)


def disk_full(error: BaseException) -> bool:
    """Whether there is no room left, or none that this user may take."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def most_telling(statuses: Iterable[int]) -> int:
    """Of the statuses of all ranks the one that says why they ended: what others say of a lost rank comes last.

    A negative one is the signal that killed a process: a lost rank.
    """
    found = {RANK_LOST if status < 0 else status for status in statuses}
    return next((status for status in _TELLING if status in found), max(found, default=DONE))


def table() -> str:
    """The table for a help text."""
    return "\n".join(f"  {status:>3}  {meaning}" for status, meaning in MEANING.items())
