"""What a run notes in its folder beside checkpoints and logs, so that the next start knows what is left to do.

wall_seconds.json   seconds by phase, summed over all starts
ended.json          that and why a callback ended the run early
finished.json       of which step export and report are, and which evaluations were asked
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import UserError


class Times:
    """Seconds of wall time by phase, summed over all processes of a run, in a file of its folder."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @property
    def seconds(self) -> dict[str, float]:
        """Phase -> seconds; a damaged file is named in a warning and counts as none."""
        try:
            return {str(phase): float(seconds) for phase, seconds in _read(self.file).items()}
        except (ValueError, TypeError, AttributeError):
            warnings.warn(f"{self.file} is damaged: the times of earlier starts are not counted", stacklevel=2)
            return {}

    def add(self, phase: str, seconds: float) -> None:
        """Add to a phase."""
        known = self.seconds
        known[phase] = round(known.get(phase, 0.0) + seconds, 2)
        try:
            _write(self.file, known)
        except OSError as error:  # a record for people, and no reason to end a run
            warnings.warn(f"{self.file} cannot be written ({error.strerror}): {phase} is not counted", stacklevel=2)


class Ended:
    """That and why a callback ended a run before the last step of its stages: `ended.json` in the run's folder.

    It counts for the checkpoint of its step only: a folder whose last checkpoint is another one has not ended.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.step: int | None = None
        self.reason = ""
        if file.is_file():
            try:
                content = _read(file)
                self.step, self.reason = int(content["step"]), str(content["reason"])
            except (ValueError, TypeError, KeyError) as error:
                raise UserError(f"{file}: not what a run writes there ({error}); delete it to train on") from error

    def forget(self) -> None:
        """The run is about to be trained on."""
        self.step, self.reason = None, ""
        self.file.unlink(missing_ok=True)

    def write(self, step: int, reason: str) -> None:
        """Note it."""
        self.step, self.reason = step, reason
        _write(self.file, {"step": step, "reason": reason})


class Finished:
    """Of which checkpoint export and report are. Damaged or missing it knows nothing, and both are made anew."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._known = dict(_read(file))
        except (ValueError, TypeError):
            self._known = {}

    def exported(self, folder: Path, step: int) -> bool:
        """The folder has the model of that step."""
        return self._known.get("export") == [str(folder.resolve()), step] and (folder / "config.json").is_file()

    def knows(self, folder: Path) -> bool:
        """This run has exported to the folder before, whatever step."""
        return str(folder.resolve()) in (self._known.get("export") or ())

    def forget(self) -> None:
        """The weights are about to change."""
        if self._known:
            export = self._known.get("export") or [""]
            self._known = {}
            self._note(export=[export[0], -1])

    def reported(self, evaluations: Mapping[str, Any], step: int) -> bool:
        """The report is of that step and has these evaluations, asked with these arguments."""
        noted = self._known.get("report")
        if not isinstance(noted, list) or noted[0] != step:
            return False
        return all(noted[1].get(name) == asked for name, asked in evaluations.items())

    def begin_export(self, folder: Path) -> None:
        """The folder is this run's from now on, and has no model of any step until `note_export`."""
        self._note(export=[str(folder.resolve()), -1])

    def note_export(self, folder: Path, step: int) -> None:
        """The folder has been written."""
        self._note(export=[str(folder.resolve()), step])

    def note_report(self, evaluations: Mapping[str, Any], step: int) -> None:
        """The report has been written."""
        self._note(report=[step, dict(evaluations)])

    def _note(self, **news: Any) -> None:
        self._known |= news
        _write(self.file, self._known)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_bytes()) if file.is_file() else {}


def _write(file: Path, content: Any) -> None:
    """All of it or nothing."""
    from ..data.files import replacing

    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as copy:
        copy.write_text(json.dumps(content), encoding="utf-8")
