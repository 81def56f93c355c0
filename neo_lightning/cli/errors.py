"""Errors for people: what is wrong with the input, where, and what would work.

Rooms raise plain `ValueError`, `OSError` and so on. While a run is being prepared such an error is a user's to mend,
so it becomes one paragraph and exit status 2. The trade-off: a bug in that phase looks like a user error, which is
why `--traceback` shows where it came from. Once training has begun nothing is caught: a traceback belongs to a bug.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pickle import UnpicklingError

from ..exits import USER_ERROR, disk_full

LIBRARY_ERRORS = {
    "jsonargparse": "ArgumentError",
    "lightning.fabric.utilities.exceptions": "MisconfigurationException",
    "omegaconf.errors": "OmegaConfBaseException",
    "yaml": "YAMLError",
}
"""Module -> its error. By name, as Lightning takes seconds to import and most commands need none of it."""

MOST_NAMES = 60
"""Of more known names only the first parts are listed."""


class UserError(Exception):
    """Something in the user's input is wrong; the message says what, where, and what would work."""

    exit_status = USER_ERROR


@contextmanager
def user_errors(doing: str) -> Iterator[None]:
    """Turn the errors that bad input causes into `UserError`, saying what was being done."""
    try:
        yield
    except Exception as error:
        from ..data.facts import RetryError

        # what of itself is no fault of the input has a status of its own: TRY_AGAIN, CANNOT_SAVE
        if isinstance(error, RetryError) or disk_full(error) or not isinstance(error, refusals()):
            raise
        raise UserError(f"{doing}: {describe(error)}") from error


def refusals() -> tuple[type[Exception], ...]:
    """What bad input is refused with, here and by those libraries that are loaded: the others raised nothing."""
    loaded = [getattr(sys.modules[module], name) for module, name in LIBRARY_ERRORS.items() if module in sys.modules]
    return (ValueError, TypeError, LookupError, OSError, ImportError, AttributeError, UnpicklingError, *loaded)


def describe(error: BaseException) -> str:
    """An error's message; with its kind where the message alone says nothing (a `KeyError` is only its key)."""
    text = str(error).strip()
    bare = not text or isinstance(error, KeyError)
    return f"{type(error).__name__}: {text}" if bare else text


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that offers the known name nearest to `name`, or lists the known ones when none is near."""
    names = sorted(set(known))
    if match := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
        return f"Did you mean {match[0]!r}?"
    if len(names) > MOST_NAMES:
        names = sorted({known.partition(".")[0] for known in names})
    return f"Known here: {', '.join(names)}." if names else "Nothing is known here."
