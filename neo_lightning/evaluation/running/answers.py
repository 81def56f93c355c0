"""Answers on disk, one JSON line each, so that a killed evaluation goes on question by question.

    FOLDER/settings.json      what the answers depend on; another evaluation is refused
    FOLDER/answers-RANK.jsonl {"key", "answer"} or {"key", "reason"}; a process appends to its own file alone
    FOLDER/grades.jsonl       {"key", "grade"} of a judge

A line that a kill has cut is taken off before the next one is written; its question is asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ...data.files import replacing

SETTINGS = "settings.json"
GRADES = "grades.jsonl"


def answers_file(rank: int) -> str:
    """Name of a process's file."""
    return f"answers-{rank}.jsonl"


class Log:
    """A file of JSON lines that grows."""

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file.open("ab+")
        self._file.truncate(_whole(file))

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Add records; they are on the disk when this returns."""
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self._file.write(text.encode("utf-8", "replace"))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole(file: Path) -> int:
    """Bytes up to the last line feed."""
    with file.open("rb") as stream:
        place = stream.seek(0, os.SEEK_END)
        while place > 0:
            start = max(0, place - (1 << 16))
            stream.seek(start)
            found = stream.read(place - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            place = start
    return 0


def read_log(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Key -> record, of whole lines; the last of a key counts.

    Raises:
        ValueError: a line that is whole is not such a record.
    """
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        with file.open("rb") as stream:
            for number, line in enumerate(stream, start=1):
                if not line.endswith(b"\n"):
                    continue
                try:
                    record = json.loads(line)
                    found[record["key"]] = record
                except (ValueError, TypeError, KeyError) as error:
                    raise ValueError(f"{file}, line {number}: not an answer's record; take the file away") from error
    return found


def read_answers(folder: Path) -> dict[str, dict[str, Any]]:
    """What all processes, of this start or an earlier one, have been answered."""
    return read_log(sorted(folder.glob("answers-*.jsonl")))


def claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write the settings, or see that the answers that are there were given under the same.

    Raises:
        ValueError: they were not; names what differs.
    """
    file = folder / SETTINGS
    mine = json.loads(json.dumps(settings))
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(file) as copy:
            copy.write_text(json.dumps(mine, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        return
    theirs = json.loads(file.read_text(encoding="utf-8"))
    if theirs != mine:
        raise ValueError(
            f"{folder} holds answers that were given otherwise: {'; '.join(differences(theirs, mine)[:6])}. "
            "Give another --out, or delete the folder"
        )


def differences(first: Any, second: Any, name: str = "") -> list[str]:
    """`decoding.temperature: 0.6 -> 0.0` for each value of nested settings that differs."""
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        names = [*first, *(key for key in second if key not in first)]
        return [
            line
            for key in names
            for line in differences(first.get(key), second.get(key), f"{name}.{key}" if name else str(key))
        ]
    if first == second:
        return []
    return [f"{name}: {_short(first)} -> {_short(second)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
