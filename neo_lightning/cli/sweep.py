"""`lightning sweep SWEEP.yaml`: one recipe in several ways with several seeds, and the table of what differs.

Each run is a `lightning run` of its own (`sweep.jobs`); the same command goes on after any stop, and with nothing left
to train it only draws the table and `FOLDER/sweep.html` again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .. import exits
from .errors import UserError
from .options import Options

if TYPE_CHECKING:
    from ..sweep.definition import Job, Sweep
    from ..sweep.outcome import Outcome


def main(argv: list[str]) -> int:
    """Train, compare; returns the exit status."""
    from ..sweep.definition import SweepError, read_sweep
    from . import recipe

    parser = Options(prog="lightning sweep", description=__doc__.split("\n\n")[0])
    parser.add_argument("sweep", metavar="SWEEP.yaml", help="arms, seeds, measures, expectations; or a shipped name")
    parser.add_argument("--at-once", type=int, metavar="N", help="runs at a time (default: GPUs, else half the cores)")
    parser.add_argument("--seeds", metavar="S[,S]", help="train only these; the table has all that is done")
    parser.add_argument("--report", action="store_true", help="train nothing: table and page of what is done")
    args = parser.parse_args(argv)
    if args.at_once is not None and args.at_once < 1:
        raise UserError(f"sweep: --at-once must be at least 1, found {args.at_once}")
    try:
        sweep = read_sweep(recipe.find(args.sweep, "recipes/ablations"))
        status = exits.DONE
        if not args.report:
            jobs = _chosen(args.seeds, sweep)
            with _owned(sweep):
                status = _train(sweep, recipe.find(sweep.recipe), jobs, args.at_once)
    except SweepError as error:
        raise UserError(str(error)) from error
    _tell(sweep)
    return status


def _chosen(text: str | None, sweep: Sweep) -> list[Job]:
    """The jobs of these seeds, with the files that are laid over their recipe."""
    from .recipe import find

    known = [str(seed) for seed in sweep.seeds]
    wanted = known if text is None else [part.strip() for part in text.split(",")]
    if foreign := [part for part in wanted if part not in known]:
        raise UserError(f"sweep: --seeds: {foreign[0]!r} is none of the file's: {', '.join(known)}")
    jobs = []
    for job in sweep.jobs:
        if str(job.seed) in wanted:
            try:
                jobs.append(replace(job, config=tuple(str(find(name)) for name in job.config)))
            except UserError as error:
                raise UserError(f"sweep {sweep.name}: arm {job.arm}: config: {error}") from error
    return jobs


@contextmanager
def _owned(sweep: Sweep) -> Iterator[None]:
    """One process trains the runs of a folder."""
    from ..data.owner import OwnedError, owned
    from ..sweep.definition import LOCK

    with ExitStack() as held:
        try:
            held.enter_context(owned(sweep.folder / LOCK, what=f"the sweep in {sweep.folder}"))
        except OwnedError as error:
            raise UserError(f"{error} What is done by now: the same command with --report") from error
        except OSError as error:
            if exits.disk_full(error):
                raise
            raise UserError(f"{sweep.folder} cannot be written ({error.strerror}): name another `folder`") from error
        yield


def _train(sweep: Sweep, recipe: Path, jobs: list[Job], at_once: int | None) -> int:
    from ..sweep.jobs import claim, is_done, run_jobs

    claim(jobs, recipe)
    left = [job for job in jobs if not is_done(job)]
    print(
        f"sweep {sweep.name}: {len(sweep.arms)} arms x {len(jobs) // len(sweep.arms)} seeds, {len(left)} runs to train",
        flush=True,
    )
    if not left:
        return exits.DONE
    gpus = _gpus()
    at_once = at_once or len(gpus) or max(1, (os.cpu_count() or 1) // 2)
    done = len(jobs) - len(left)

    def told(job: Job, what: str) -> None:
        nonlocal done
        done += what == "done"
        print(f"[{done}/{len(jobs)}] {job.arm}, seed {job.seed}: {what}", flush=True)

    statuses = run_jobs(jobs, recipe, at_once=min(at_once, len(gpus) or at_once), gpus=gpus, told=told)
    failed = [status for job, status in statuses.items() if not is_done(job)]
    if failed:
        print(f"sweep: {len(failed)} runs did not end well; the rest is compared without them", file=sys.stderr)
    return exits.most_telling(failed)


def _gpus() -> list[str]:
    """Ids of the GPUs that may be used."""
    said = os.environ.get("CUDA_VISIBLE_DEVICES")
    if said is not None:
        return [device for device in said.split(",") if device.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def _tell(sweep: Sweep) -> None:
    from ..data.files import replacing
    from ..report.sweep import render
    from ..sweep.definition import PAGE, TABLE
    from ..sweep.jobs import is_done
    from ..sweep.outcome import Outcome, as_json, read_run

    columns = sorted({measure.column for measure in sweep.measures})
    runs = {(job.arm, job.seed): read_run(job.folder, columns) for job in sweep.jobs if is_done(job)}
    if not runs:
        raise UserError(f"sweep: no run below {sweep.folder} is done yet")
    outcome = Outcome(sweep, runs)
    for name, text in (
        (TABLE, json.dumps(as_json(outcome), indent=1, allow_nan=False) + "\n"),
        (PAGE, render(outcome)),
    ):
        with replacing(sweep.folder / name) as copy:
            copy.write_text(text, encoding="utf-8")
    _print(outcome)
    print(f"page: {sweep.folder / PAGE}")


def _print(outcome: Outcome) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from ..console import table_console
    from ..report.sweep import against, mean_of, seeds_of

    sweep = outcome.sweep
    table = Table(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("measure", "arm", "mean", f"- {sweep.baseline}", "95%", "p", "seeds"):
        table.add_column(escape(column), justify="left" if column in ("measure", "arm") else "right")
    for measure in sweep.measures:
        for number, arm in enumerate(sweep.arms):
            row = [
                measure.name if not number else "",
                arm,
                mean_of(outcome, arm, measure),
                *against(outcome, arm, measure),
                seeds_of(outcome, arm, measure),
            ]
            table.add_row(*map(escape, row))
    table_console().print(table)
    for verdict in map(outcome.verdict, sweep.expect):
        said = verdict.expected
        print(f"expected {said.better} better than {said.worse} in {said.measure}: {verdict.said}")
