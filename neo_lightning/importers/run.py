"""One import from start to end, or from where it was killed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from neo_lightning.data.facts import reason_kind
from neo_lightning.importers.convert import Converted
from neo_lightning.importers.formats import FORMATS
from neo_lightning.importers.pool import converted
from neo_lightning.importers.record import RecordError
from neo_lightning.importers.shards import ShardChains
from neo_lightning.importers.tally import Tally, tally_from
from neo_lightning.importers.task import Job
from neo_lightning.types import MODALITIES

COMMIT_SECONDS = 10.0
"""What a killed import loses at most, beside the work in flight."""
_KINDS_COUNTED = 50


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """What an import did."""

    samples: Mapping[str, int]
    """Written, per modality."""
    left_out: int
    """Records."""
    reasons: Mapping[str, int]
    """How often each kind of reason was found, most frequent first."""
    manifest: Path
    tally: Tally = field(default_factory=Tally)
    """Layouts that were found, and what of the records nothing uses."""

    def __str__(self) -> str:
        written = ", ".join(f"{count} {modality}" for modality, count in self.samples.items())
        lines = [f"{self.manifest}: {written}", *self.tally.lines()]
        if self.left_out:
            lines.append(f"{self.left_out} records left out, listed in {self.manifest.parent / 'import.log'}:")
            lines += [f"  {count} x {reason}" for reason, count in list(self.reasons.items())[:10]]
        return "\n".join(lines)


@dataclass(kw_only=True)
class _State:
    """What is stored in `import.json`: everything before it is safe, everything after it is done again."""

    arguments: dict[str, Any]
    records: int = 0
    """Records done."""
    samples: dict[str, int] = field(default_factory=dict)
    left_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    tally: dict[str, Any] = field(default_factory=dict)
    """See `Tally`."""
    log_bytes: int = 0
    chains: dict[str, Any] = field(default_factory=dict)
    """See `ShardChains.sync`."""
    done: bool = False


class Import:
    """Context manager around an output folder, which nobody else can import to meanwhile."""

    def __init__(self, out: Path, job: Job, arguments: dict[str, Any]) -> None:
        self._out, self._job, self._arguments = out, job, arguments

    def __enter__(self) -> Import:
        out, job, arguments = self._out, self._job, self._arguments
        if not (out / "import.json").exists() and any(out.glob("*.tar")):
            raise RecordError(f"{out}: holds shards already; name another folder")
        out.mkdir(parents=True, exist_ok=True)
        self._log: IO[bytes] = (out / "import.log").open("ab")
        try:
            fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._log.close()
            raise RecordError(f"{out}: another import writes to this folder") from error
        try:
            self._state = _load(out, arguments)
            self._tally = tally_from(self._state.tally)
            self._log.truncate(self._state.log_bytes)
            self._log.seek(0, os.SEEK_END)
            job.partial.mkdir(exist_ok=True)
            for path in job.partial.glob("task-*"):
                path.unlink()
            limits = arguments["samples per shard"], arguments["bytes per shard"]
            self._chains = ShardChains(out, job.partial, *limits, self._state.chains)
        except BaseException:
            self._log.close()
            raise
        self._committed = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._chains.close()
        self._log.close()

    def run(self, inputs: list[Path], total: int | None, workers: int) -> ImportReport:
        """Import what has not been imported yet; a bar shows the part of `total`, where that is given.

        Raises:
            RecordError: see `import_dataset`.
        """
        state, format = self._state, FORMATS[self._job.format][0]
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        if not state.done:
            with Progress(*columns, TimeRemainingColumn(), disable=total is None) as bar:
                shown = bar.add_task("importing", total=total)
                tasks = (task for task in format.split(inputs) if task.first + task.count > state.records)
                for task, path, records in converted(tasks, self._job, workers):
                    with open(path, "rb") as source:
                        for number, record in enumerate(records, start=task.first):
                            self._take(number, record, source)
                    os.unlink(path)
                    text = f"{sum(state.samples.values())} samples, {state.left_out} left out"
                    bar.update(shown, completed=task.progress, description=text)
            self._finish()
        return self._close()

    def _take(self, number: int, record: Converted, source: IO[bytes]) -> None:
        state, full = self._state, False
        if number < state.records:
            source.seek(record.size, os.SEEK_CUR)
            return
        if record.reason:
            self._leave_out(record)
        else:
            self._count(record)
            full = self._chains.append(record.modality, source, record.size)
            state.samples[record.modality] = state.samples.get(record.modality, 0) + 1
        state.records = number + 1
        if full or time.monotonic() - self._committed > COMMIT_SECONDS:
            self._commit()

    def _count(self, record: Converted) -> None:
        """Count what was found; what is not used goes into the log where it is met first."""
        if record.unused and self._arguments["strict"]:
            names = ", ".join(record.unused)
            raise RecordError(
                f"{record.where}: {names} is neither learned nor kept; --keep KEY keeps a key in the sample's `meta`, "
                "without --strict it is counted and dropped"
            )
        for name in self._tally.add(record):
            self._log.write(json.dumps({"record": record.where, "not used": name}).encode() + b"\n")

    def _leave_out(self, record: Converted) -> None:
        state = self._state
        if self._arguments["strict"]:
            raise RecordError(f"{record.where}: {record.reason}")
        kind = reason_kind(record.reason)
        if kind not in state.reasons and len(state.reasons) >= _KINDS_COUNTED:
            kind = "other reasons"
        state.reasons[kind] = state.reasons.get(kind, 0) + 1
        state.left_out += 1
        self._log.write(json.dumps({"record": record.where, "reason": record.reason}).encode() + b"\n")

    def _commit(self) -> None:
        """Store how far the import has got, and only then give names to shards that are complete."""
        self._log.flush()
        os.fsync(self._log.fileno())
        self._state.log_bytes = self._log.tell()
        self._state.chains, self._state.tally = self._chains.sync(), asdict(self._tally)
        _write(self._out / "import.json", json.dumps(vars(self._state), indent=1))
        self._chains.publish()
        self._committed = time.monotonic()

    def _finish(self) -> None:
        if not self._state.samples:
            self._log.flush()
            reasons = "; ".join(self._state.reasons) or "there is none"
            raise RecordError(f"no record could be imported ({reasons}); see {self._out / 'import.log'}")
        self._chains.finish()
        self._state.done = True
        self._commit()

    def _close(self) -> ImportReport:
        state, manifest = self._state, self._out / "manifest.yaml"
        samples = {modality: state.samples[modality] for modality in MODALITIES if modality in state.samples}
        lines = ["# Written by `neo-lightning data import`.", "sources:"]
        for name, count in samples.items():
            lines += [f"  {name}:  # {count} samples", f"    modality: {name}", f'    shards: "{name}-*.tar"']
        _write(manifest, "\n".join(lines) + "\n")
        shutil.rmtree(self._job.partial)
        reasons = dict(Counter(state.reasons).most_common())
        return ImportReport(
            samples=samples, left_out=state.left_out, reasons=reasons, manifest=manifest, tally=self._tally
        )


def _load(out: Path, arguments: dict[str, Any]) -> _State:
    path = out / "import.json"
    if not path.exists():
        return _State(arguments=arguments)
    try:
        state = _State(**json.loads(path.read_bytes()))
        changed = [name for name, value in arguments.items() if state.arguments.get(name) != value]
    except (ValueError, TypeError, AttributeError) as error:
        raise RecordError(f"{path}: not written by an import ({error}); delete {out}") from error
    if changed:
        was = "; ".join(f"{name} was {state.arguments.get(name)!r}, is {arguments[name]!r}" for name in changed)
        raise RecordError(f"{out}: holds an import that was started otherwise ({was}); name another folder")
    return state


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
