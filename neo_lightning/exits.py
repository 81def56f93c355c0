"""How a process of this package ends: the one table of its exit statuses, for shells, schedulers and launchers."""

from __future__ import annotations

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


def status_of(error: BaseException) -> int:
    """How an error ends its process: the `exit_status` of its class, or that of a bug."""
    return getattr(error, "exit_status", BUG)


def table() -> str:
    """The table for a help text."""
    return "\n".join(f"  {status:>3}  {meaning}" for status, meaning in MEANING.items())
