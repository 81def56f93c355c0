"""What an import found and did not use, counted while it goes on: kept in `import.json`, told at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from neo_lightning.importers.convert import Converted

_KINDS = 50
"""Layouts and keys that are counted apart."""
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


@dataclass(kw_only=True)
class Tally:
    """Counts over the records that were imported."""

    found: dict[str, Found] = field(default_factory=dict)
    """By container and layout."""
    unused: dict[str, int] = field(default_factory=dict)
    """How many records say something that nothing uses, by its name."""

    def add(self, record: Converted) -> list[str]:
        """Count a record; the names that are counted for the first time."""
        layout = record.layout if record.layout in self.found or len(self.found) < _KINDS else "other layouts"
        self.found.setdefault(layout, Found()).add(record.file, record.used)
        new = []
        for name in record.unused:
            if name not in self.unused:
                name = name if len(self.unused) < _KINDS else "other keys"
                new += [name] if name not in self.unused else []
            self.unused[name] = self.unused.get(name, 0) + 1
        return new

    def lines(self) -> Iterator[str]:
        """For people."""
        for layout, found in list(self.found.items())[:_SHOWN]:
            yield f"found {layout}; {found}"
        if len(self.found) > _SHOWN:
            yield f"... and {len(self.found) - _SHOWN} more layouts, see import.json"
        if self.unused:
            yield "not used, neither learned nor kept (--strict refuses it; --keep KEY keeps a key in `meta`):"
            yield from (f"  {count} x {name}" for name, count in Counter(self.unused).most_common(_SHOWN))
        if len(self.unused) > _SHOWN:
            yield f"  ... and {len(self.unused) - _SHOWN} more, see import.json"


def tally_from(stored: Mapping[str, object]) -> Tally:
    """The inverse of `dataclasses.asdict`.

    Raises:
        TypeError: it was not written by an import.
    """
    found, unused = stored.get("found", {}), stored.get("unused", {})
    if not isinstance(found, dict) or not isinstance(unused, dict):
        raise TypeError("no counts")
    return Tally(found={name: Found(**values) for name, values in found.items()}, unused=unused)
