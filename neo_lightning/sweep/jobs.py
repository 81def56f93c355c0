"""A sweep's runs as processes of `lightning run`, several at once; what is done stays done.

    FOLDER/ARM/SEED/             the run's folder
    FOLDER/ARM/SEED/job.json     the recipe and the keys that it is trained with
    FOLDER/ARM/SEED/output.txt   what it printed

A sweep that is stopped or killed takes its runs with it; started again it goes on with each from its last checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import exits, stopping
from ..data.files import replacing
from .definition import Job, SweepError

JOB, OUTPUT, STATUS, REPORT = "job.json", "output.txt", "status.json", "report.json"
TRIES = 3
"""Starts of a run that says that the same command goes on, or is killed."""
_PATIENCE = 120.0
"""Seconds in which a run that is asked to stop saves."""
_LOOK = 0.2

Told = Callable[[Job, str], None]
"""Called with a job and `starts`, `done`, or what is wrong with it."""


def is_done(job: Job) -> bool:
    """Whether its run has come to its end, and its report lies there."""
    try:
        status = json.loads((job.folder / STATUS).read_text(encoding="utf-8"))["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return status in (exits.DONE, exits.EVALUATION_FAILED) and (job.folder / REPORT).is_file()


def claim(jobs: Sequence[Job], recipe: Path) -> None:
    """Note in each run's folder what it is trained with: keys, and digests of the recipe and of what is laid over it.

    Args:
        jobs: their `config` are files.

    Raises:
        SweepError: a folder holds a run that is trained with something else; names the keys.
    """
    notes: dict[Job, dict[str, Any]] = {
        job: {
            "recipe": _digest(recipe),
            "config": [_digest(Path(file)) for file in job.config],
            "seed": job.seed,
            "overrides": _plain(job.overrides),
        }
        for job in jobs
    }
    for job, note in notes.items():
        file = job.folder / JOB
        if not file.is_file():
            continue
        before = {"config": [], **json.loads(file.read_text(encoding="utf-8"))}
        if before == note:
            continue
        old, new = before.get("overrides", {}), note["overrides"]
        keys = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        differs = ", ".join(keys) or "the recipe, or what is laid over it,"
        raise SweepError(
            f"{job.folder} holds a run of another sweep: {differs} differs. Name another `folder`, or remove that one"
        )
    for job, note in notes.items():
        job.folder.mkdir(parents=True, exist_ok=True)
        with replacing(job.folder / JOB) as copy:
            copy.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")


def run_jobs(jobs: Sequence[Job], recipe: Path, *, at_once: int, gpus: Sequence[str], told: Told) -> dict[Job, int]:
    """Train what is not done.

    Args:
        at_once: runs at the same time.
        gpus: ids of the GPUs that they are dealt to, one each; empty for the CPU's cores, which they share.

    Returns:
        The last exit status of each run that was started.

    Raises:
        Stopped: a stop was asked for; the runs have saved.
    """
    waiting = [job for job in jobs if not is_done(job)]
    places = list(gpus) or [""] * at_once
    running: dict[Job, tuple[subprocess.Popen[bytes], str]] = {}
    tries: dict[Job, int] = {}
    statuses: dict[Job, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once and places:
                job, place = waiting.pop(0), places.pop()
                tries[job] = tries.get(job, 0) + 1
                told(job, "starts")
                running[job] = _start(job, recipe, place, at_once), place
            for job, (process, place) in list(running.items()):
                if (status := process.poll()) is None:
                    continue
                del running[job]
                places.append(place)
                statuses[job] = exits.RANK_LOST if status < 0 else status
                if statuses[job] in (exits.TRY_AGAIN, exits.RANK_LOST) and tries[job] < TRIES:
                    waiting.insert(0, job)
                else:
                    told(job, "done" if is_done(job) else said_last(job, status))
            time.sleep(_LOOK)
    finally:
        _stop([process for process, _ in running.values()])
    return statuses


def said_last(job: Job, status: int) -> str:
    """The last words of a run that failed."""
    lines = (job.folder / OUTPUT).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"ended with {status}: {lines[-1] if lines else 'without a word'} ({job.folder / OUTPUT})"


def arguments(job: Job, recipe: Path) -> list[str]:
    """Of `lightning run`, for one run."""
    keys: Mapping[str, Any] = {
        "run.dir": str(job.folder),
        "run.name": f"{job.arm}-{job.seed}",
        "seed_everything": job.seed,
        **job.overrides,
    }
    return [
        str(recipe),
        *(f"--config={file}" for file in job.config),
        *(f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in keys.items()),
    ]


def _start(job: Job, recipe: Path, place: str, at_once: int) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-m", "neo_lightning", "run", *arguments(job, recipe)]
    environment = {**os.environ, stopping.LAUNCHER: str(os.getpid())}
    if place:
        environment["CUDA_VISIBLE_DEVICES"] = place
    elif at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
    with (job.folder / OUTPUT).open("ab") as output:
        return subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)


def _stop(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    end = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _plain(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON reads it again."""
    return dict(json.loads(json.dumps(dict(overrides))))
