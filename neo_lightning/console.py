"""The console that tables are printed on: whole where the output is no terminal.

A terminal's width bounds a table, and what does not fit is folded. A file or a pipe has no width: rich would assume 80
columns and cut headings, so there a table is as wide as its content.
"""

from __future__ import annotations

from rich.console import Console

_NO_LIMIT = 1 << 16
"""Columns; more than any table has."""


def table_console() -> Console:
    """A console on the standard output, as it is now."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_NO_LIMIT)
