"""The layouts that an import found, counted while it goes on: kept in `import.json`, told at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from neo_lightning.importers.convert import Converted

_KINDS = 50
"""Layouts that are counted apart."""
_SHOWN = 10


@dataclass(kw_only=True)
class Found:
    """One layout of records."""

    records: int = 0
    files: int = 0
    first: str = ""
    last: str = ""
    """Names of the first and the last file that hold it."""
    fields: dict[str, int] = field(default_factory=dict)
    """How many records have each key that was read."""

    def add(self, file: str, used: Iterable[str]) -> None:
        """Count a record."""
        self.records += 1
        for name in used:
            self.fields[name] = self.fields.get(name, 0) + 1
        if not self.files or file != self.last:
            self.files += 1
        self.first, self.last = self.first if self.files > 1 else file, file

    def __str__(self) -> str:
        place = f" in {self.files} files from {self.first} to {self.last}" if self.files > 1 else f" in {self.first}"
        fields = ", ".join(f"`{name}` ({count})" for name, count in self.fields.items())
        return f"{self.records} records{place if self.first else ''}: {fields}"


Layouts = dict[str, Found]
"""By container and layout."""


def count_layout(layouts: Layouts, record: Converted) -> None:
    """Count a record that was imported."""
    layout = record.layout if record.layout in layouts or len(layouts) < _KINDS else "other layouts"
    layouts.setdefault(layout, Found()).add(record.file, record.used)


def layout_lines(layouts: Layouts) -> Iterator[str]:
    """For people."""
    for layout, found in list(layouts.items())[:_SHOWN]:
        yield f"found {layout}; {found}"
    if len(layouts) > _SHOWN:
        yield f"... and {len(layouts) - _SHOWN} more layouts, see import.json"
