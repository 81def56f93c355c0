"""How long all starts of a run have lived, for its goodput, in a small file of its folder.

    starts.json   when a process of rank 0 began (seconds since 1970) -> seconds that it is known to have lived

Each start writes its own entry again and again: of one that is killed, what followed its last line of the log is lost.
Time between starts, when nothing ran, does not count.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from neo_lightning.data.files import replacing
from neo_lightning.training.best_effort import BestEffort

_IMPORTED = time.monotonic()


class WallTime:
    """Seconds of wall time of all starts of a run."""

    def __init__(self, file: Path) -> None:
        """Args: `file`, there or not; a damaged one counts as none, and is said to."""
        self.file = file
        self._began = time.time() - age_of_process()
        self._effort = BestEffort(str(file))
        self._others: dict[str, float] = {}
        if file.is_file():
            try:
                known = {str(began): float(seconds) for began, seconds in json.loads(file.read_bytes()).items()}
                self._others = {
                    began: seconds for began, seconds in known.items() if abs(float(began) - self._began) > 1
                }
            except (ValueError, TypeError, AttributeError):
                print(f"warning: {file} is damaged: goodput is that of this start alone", flush=True)

    @property
    def seconds(self) -> float:
        """Up to now."""
        return sum(self._others.values()) + time.time() - self._began

    def note(self) -> None:
        """Write this start's entry."""
        entries = {**self._others, f"{self._began:.2f}": round(time.time() - self._began, 2)}
        with self._effort.attempt():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.file) as copy:
                copy.write_text(json.dumps(entries), encoding="utf-8")


def age_of_process() -> float:
    """Seconds since this process began; since this module's import where the system does not tell."""
    try:
        words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        born = int(words[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - born)
    except (OSError, ValueError, LookupError, AttributeError):
        return time.monotonic() - _IMPORTED
