"""One import from start to end, or from where it was killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from neo_lightning.data.facts import reason_kind
from neo_lightning.data.owner import OwnedError, owned
from neo_lightning.importers.convert import Converted
from neo_lightning.importers.formats import FORMATS
from neo_lightning.importers.found import Found, count_layout
from neo_lightning.importers.media_folder import GONE, changes, note_lines
from neo_lightning.importers.pool import converted
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.report import HELD_OUT, ImportReport
from neo_lightning.importers.shards import ShardChains
from neo_lightning.importers.task import Job, shown
from neo_lightning.types import MODALITIES

COMMIT_SECONDS = 10.0
"""What a killed import loses at most, beside the work in flight."""
_KINDS_COUNTED = 50
_SHARD = re.compile(rf"({HELD_OUT})?({'|'.join(MODALITIES)})-\d{{6}}\.tar")


@dataclass(kw_only=True)
class _State:
    """What is stored in `import.json`: everything before it is safe, everything after it is done again."""

    arguments: dict[str, Any]
    records: int = 0
    """Records done."""
    samples: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    """See `found.Layouts`."""
    unused: dict[str, int] = field(default_factory=dict)
    log_bytes: int = 0
    media_bytes: int = 0
    """Of the notes about media files (`media_folder`)."""
    chains: dict[str, Any] = field(default_factory=dict)
    """See `ShardChains.sync`."""
    done: bool = False


class Import:
    """Context manager around an output folder, which nobody else can import to meanwhile."""

    def __init__(self, out: Path, job: Job, arguments: dict[str, Any], again: bool) -> None:
        self._out, self._job, self._arguments, self._again = out, job, arguments, again

    def __enter__(self) -> Import:
        out, job, arguments = self._out, self._job, self._arguments
        if not (out / "import.json").exists() and any(out.glob("*.tar")):
            raise RecordError(f"{out}: holds shards already; name another folder")
        out.mkdir(parents=True, exist_ok=True)
        self._owner = ExitStack()
        try:
            self._owner.enter_context(owned(out / "import.lock", what=f"the import to {out}"))
        except OwnedError as error:
            raise RecordError(str(error)) from error
        self._log: IO[bytes] = (out / "import.log").open("ab")
        self._notes: IO[bytes] = (out / "import.media").open("ab")
        try:
            if self._again:
                _write(out / "import.json", json.dumps(vars(_State(arguments=arguments)), indent=1))
            self._state = _load(out, arguments)
            if not self._state.records:
                _sweep(out)
            self._gone = _gone(out, self._state, job)
            for file, size in ((self._log, self._state.log_bytes), (self._notes, self._state.media_bytes)):
                file.truncate(size)
                file.seek(0, os.SEEK_END)
            job.partial.mkdir(exist_ok=True)
            for path in job.partial.glob("task-*"):
                path.unlink()
            limits = arguments["samples per shard"], arguments["bytes per shard"]
            self._chains = ShardChains(out, job.partial, *limits, self._state.chains)
        except BaseException:
            self._log.close()
            self._notes.close()
            self._owner.close()
            raise
        self._committed = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chains.close()
        self._log.close()
        self._notes.close()
        self._owner.close()

    def run(self, inputs: list[Path], total: int | None, workers: int) -> ImportReport:
        """Import what has not been imported yet; a bar shows the part of `total`, where that is given.

        Raises:
            RecordError: see `import_dataset`.
        """
        state, format = self._state, FORMATS[self._job.format][0]
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        if not state.done:
            with Progress(*columns, TimeRemainingColumn(), disable=total is None) as bar:
                task_bar = bar.add_task("importing", total=total)
                tasks = (task for task in format.split(inputs) if task.first + task.count > state.records)
                for task, path, records in converted(tasks, self._job, workers):
                    with open(path, "rb") as source:
                        for number, record in enumerate(records, start=task.first):
                            self._take(number, record, source)
                    os.unlink(path)
                    text = f"{sum(state.samples.values())} samples, {state.left_out} left out"
                    bar.update(task_bar, completed=task.progress, description=text)
            self._finish()
        return self._close()

    def _take(self, number: int, record: Converted, source: IO[bytes]) -> None:
        state, full = self._state, False
        if number < state.records:
            source.seek(record.size, os.SEEK_CUR)
            return
        self._notes.write(note_lines(record.notes))
        if record.reason:
            self._leave_out(record)
        else:
            self._count(record)
            source_name = f"{HELD_OUT if record.held_out else ''}{record.modality}"
            full = self._chains.append(source_name, source, record.size)
            state.samples[source_name] = state.samples.get(source_name, 0) + 1
        state.records = number + 1
        if full or time.monotonic() - self._committed > COMMIT_SECONDS:
            self._commit()

    def _leave_out(self, record: Converted) -> None:
        state = self._state
        if self._arguments["strict"]:
            raise RecordError(shown(f"{record.where}: {record.reason}"))
        kind = reason_kind(record.reason)
        if kind not in state.reasons and len(state.reasons) >= _KINDS_COUNTED:
            kind = "other reasons"
        state.reasons[kind] = state.reasons.get(kind, 0) + 1
        state.left_out += 1
        self._log.write(json.dumps({"record": record.where, "reason": record.reason}).encode() + b"\n")

    def _count(self, record: Converted) -> None:
        """Count what was found; what nothing uses goes into the log where it is met first."""
        if record.unused and self._arguments["strict"]:
            names = shown(", ".join(record.unused))
            raise RecordError(
                f"{record.where}: {names} is neither learned nor kept; --keep KEY keeps a key in the sample's `meta`, "
                "and without --strict it is counted and dropped"
            )
        count_layout(self._state.found, record)
        counts = self._state.unused
        for name in dict.fromkeys(record.unused):
            if name not in counts:
                self._log.write(json.dumps({"record": record.where, "not used": name}).encode() + b"\n")
            name = name if name in counts or len(counts) < _KINDS_COUNTED else "others"
            counts[name] = counts.get(name, 0) + 1

    def _commit(self) -> None:
        """Store how far the import has got, and only then give names to shards that are complete."""
        for file in (self._log, self._notes):
            file.flush()
            os.fsync(file.fileno())
        self._state.log_bytes, self._state.media_bytes = self._log.tell(), self._notes.tell()
        self._state.chains = self._chains.sync()
        _write(self._out / "import.json", json.dumps(asdict(self._state), indent=1))
        self._chains.publish()
        self._committed = time.monotonic()

    def _finish(self) -> None:
        if not self._state.samples:
            self._log.flush()
            reasons = shown("; ".join(self._state.reasons)) or "there is none"
            raise RecordError(f"no record could be imported ({reasons}); see {self._out / 'import.log'}")
        self._chains.finish()
        self._state.done = True
        self._commit()

    def _close(self) -> ImportReport:
        state, manifest = self._state, self._out / "manifest.yaml"
        names = [f"{side}{modality}" for side in ("", HELD_OUT) for modality in MODALITIES]
        samples = {name: state.samples[name] for name in names if name in state.samples}
        lines = ["# Written by `neo-lightning data import`.", "sources:"]
        for name, count in samples.items():
            modality = name.removeprefix(HELD_OUT)
            lines += [f"  {name}:  # {count} samples", f"    modality: {modality}", f'    shards: "{name}-*.tar"']
        _write(manifest, "\n".join(lines) + "\n")
        shutil.rmtree(self._job.partial)
        reasons, unused = (dict(Counter(counts).most_common()) for counts in (state.reasons, state.unused))
        return ImportReport(
            samples=samples,
            left_out=state.left_out,
            reasons=reasons,
            unused=unused,
            gone=self._gone,
            manifest=manifest,
            found=state.found,
        )


def _load(out: Path, arguments: dict[str, Any]) -> _State:
    path = out / "import.json"
    if not path.exists():
        return _State(arguments=arguments)
    try:
        state = _State(**json.loads(path.read_bytes()))
        state.found = {layout: Found(**values) for layout, values in state.found.items()}
        changed = [name for name, value in arguments.items() if state.arguments.get(name) != value]
    except (ValueError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: not written by an import ({error}); delete {out}") from error
    if changed:
        was = "; ".join(f"{name} was {state.arguments.get(name)!r}, is {arguments[name]!r}" for name in changed)
        raise RecordError(
            f"{out}: holds an import that was started otherwise ({was}); name another folder, or say "
            "--again to replace it"
        )
    return state


def _sweep(out: Path) -> None:
    """Remove what an import wrote of which nothing counts any more."""
    for path in [*out.glob("*.tar"), out / "manifest.yaml"]:
        if path.name == "manifest.yaml" or _SHARD.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _gone(out: Path, state: _State, job: Job) -> int:
    """Media files that are not there any more.

    Raises:
        RecordError: others have changed since they were read, or were missing and are there now.
    """
    if job.media is None:
        return 0
    found = changes(out / "import.media", state.media_bytes, job.media)
    gone = len(found.pop(GONE, []))
    if found:
        kinds = [
            f"{len(names)} {kind} ({', '.join(map(repr, names[:3]))}{', ...' if len(names) > 3 else ''})"
            for kind, names in found.items()
        ]
        raise RecordError(
            f"{out}: media files have changed since this import read them: {'; '.join(kinds)}. The shards do not hold "
            "what is there now; the same command with --again replaces them, another --out leaves them as they are"
        )
    return gone


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
