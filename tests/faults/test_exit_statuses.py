"""Rows 33 and 35 to 37, points 1, 14, 15 and 17: every way to end has a status of its own, under every launcher."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from neo_lightning import exits
from neo_lightning.cli.main import main, usage
from tests.faults.test_stops import losses
from tests.forks import Server, clean_environment

SENDS = "tests.faults.stops.Sends"


def callback(kind: str, **options: Any) -> str:
    return f"--trainer.callbacks+={json.dumps({'class_path': kind, 'init_args': options})}"


def ending(status: int, folder: Path) -> list[str]:
    """Arguments with which the micro recipe ends with a status."""
    bare = ["--evaluation=[]", "--export=false"]
    if status == exits.DONE:
        return bare
    if status == exits.BUG:
        return [*bare, callback("tests.faults.stops.Breaks")]
    if status == exits.USER_ERROR:
        return [*bare, "--stages.two.lrr=1"]
    if status == exits.EVALUATION_FAILED:
        return ["--export=false", '--evaluation=[{"class_path": "tests.faults.stops.Fails"}]']
    if status == exits.TRY_AGAIN:
        return [*bare, callback(SENDS, after=3)]
    if status == exits.NUMBERS_BROKEN:
        return [*bare, "--stages.one.lr=1e30", "--model.stop_after_skips=2"]
    if status == exits.CANNOT_SAVE:
        saver = "neo_lightning.training.callbacks.CommitCheckpoint"
        blocks = callback("tests.faults.stops.Blocks")
        return [*bare, blocks, callback(saver, every_n_steps=1, stop_after_failures=1)]
    if status == exits.RANK_LOST:
        os.mkfifo(folder / "pipe")
        hangs = callback("tests.faults.stops.Hangs", pipe=str(folder / "pipe"), rank=1)
        return [*bare, hangs, callback("neo_lightning.training.callbacks.Pulse", silence_s=30, between_s=4)]
    raise AssertionError(status)


SAID = {
    exits.DONE: "",
    exits.BUG: "ZeroDivisionError: a fault of the user's own",
    exits.USER_ERROR: "Did you mean 'lr'?",
    exits.EVALUATION_FAILED: "failure: fails: it is not what was trained",
    exits.TRY_AGAIN: "asked to stop (SIGTERM): saved after step 4, run the same command again to go on",
    exits.NUMBERS_BROKEN: "error: 2 steps in a row without an update",
    exits.RANK_LOST: "hangs in step 1, phase",
    exits.CANNOT_SAVE: "error: 1 saves in a row failed",
}
NOT_LOST = [status for status in SAID if status != exits.RANK_LOST]
"""What a process alone can end with, and what `lightning launch` does not start again."""
ONCE = (exits.TRY_AGAIN, exits.NUMBERS_BROKEN, exits.CANNOT_SAVE)
"""Of what all ranks are told alike one tells."""


def started(folder: Path, *line: str) -> tuple[int, str]:
    """Status and output of a command line in processes of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *line], cwd=folder, env=clean_environment(), capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_every_status_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help"]) == main(["launch", "--help"]) == 0
    for text in (usage(), *capsys.readouterr().out.split("usage: lightning launch")):
        for status, meaning in exits.MEANING.items():
            assert re.search(rf"^ +{status}  {re.escape(meaning)}$", text, re.M), (status, text)
    assert exits.MEANING.keys() == exits.OUTCOMES.keys() == set(exits._TELLING)


@pytest.mark.parametrize("status", NOT_LOST)
def test_fault_33_point_15_statuses_of_a_process_that_is_started_alone(
    forks: Server,
    micro: Path,
    tmp_path: Path,
    status: int,
) -> None:
    line = ["run", str(micro), *ending(status, tmp_path)]
    found, output = forks.run("neo_lightning.cli.main:main", line, cwd=tmp_path)
    if status == exits.BUG:
        assert "Traceback" in output
    assert found == status, output
    assert SAID[status] in output
    file = tmp_path / "run" / "status.json"
    if status == exits.USER_ERROR:
        assert not file.exists(), "a start that is refused leaves nothing"
        return
    note = json.loads(file.read_text())
    assert (note["status"], note["outcome"]) == (status, exits.OUTCOMES[status])
    if status == exits.BUG:
        assert "a fault of the user's own" in note["sentence"]


@pytest.mark.slow
@pytest.mark.parametrize("status", SAID)
def test_fault_33_statuses_under_lightnings_own_launcher(
    micro: Path,
    tmp_path: Path,
    status: int,
) -> None:
    found, output = started(
        tmp_path, "neo_lightning", "run", str(micro), "--trainer.devices=2", *ending(status, tmp_path)
    )
    assert found == status, output
    assert SAID[status] in output
    if status in ONCE:
        assert output.count(SAID[status]) == 1, output


@pytest.mark.slow
@pytest.mark.parametrize("status", NOT_LOST)
def test_fault_33_point_01_statuses_under_launch(micro: Path, tmp_path: Path, status: int) -> None:
    found, output = started(tmp_path, "neo_lightning", "launch", "-n", "2", str(micro), *ending(status, tmp_path))
    assert found == status, output
    assert SAID[status] in output
    assert "started again" not in output, "only a lost rank is"
    if status in ONCE:
        assert output.count(SAID[status]) == 1, output


@pytest.mark.slow
@pytest.mark.parametrize("status", [exits.TRY_AGAIN, exits.RANK_LOST, exits.NUMBERS_BROKEN])
def test_fault_33_point_01_torchrun_shows_the_ranks_status_and_has_its_own(
    micro: Path,
    tmp_path: Path,
    status: int,
) -> None:
    two = ("torch.distributed.run", "--nproc-per-node=2", "-m", "neo_lightning")
    found, output = started(tmp_path, *two, "run", str(micro), *ending(status, tmp_path))
    assert found == 1
    assert re.search(rf"exitcode +: {status}\b", output), output
    assert json.loads((tmp_path / "run" / "status.json").read_text())["status"] == status


@pytest.mark.slow
@pytest.mark.parametrize("status", [exits.TRY_AGAIN, exits.RANK_LOST, exits.NUMBERS_BROKEN])
def test_point_17_tasks_of_slurm_end_by_the_table_and_promise_no_requeue(
    forks: Server,
    micro: Path,
    tmp_path: Path,
    status: int,
) -> None:
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol.txt\n[ "$1" = show ] && echo localhost\n')
    scontrol.chmod(0o755)
    path = {"PATH": f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"}
    line = ["run", str(micro), "--trainer.devices=2", *ending(status, tmp_path)]
    with forks.start("tests.faults.stops:slurm_task", line, ranks=2, together=False, environment=path) as run:
        output = run.stdout.read()
        run.wait()
    assert run.statuses == (status, status), output
    assert output.count(SAID[status]) == (1 if status in ONCE else 2), output
    assert "requeu" not in output
    asked = tmp_path / "scontrol.txt"
    assert "requeue" not in (asked.read_text() if asked.exists() else "")


@contextmanager
def launched(folder: Path, *line: str, command: str = "launch") -> Iterator[subprocess.Popen[str]]:
    """`lightning launch`, or `run`, in a process of its own; none of its ranks outlives the block."""
    with subprocess.Popen(
        [sys.executable, "-m", "neo_lightning", command, *line],
        cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        pids: Sequence[int] = ()
        try:
            yield process
            pids = ()
        finally:
            pids = pids or ranks_of(process)
            for pid in (*pids, process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids of a launcher's ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()] if children.exists() else []


def read_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came:\n{seen}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_point_02_a_signal_to_the_launcher_reaches_the_ranks_which_save(
    micro: Path,
    tmp_path: Path,
    name: str,
) -> None:
    line = ("-n", "2", str(micro), "--evaluation=[]", "--export=false", "--stages.two.steps=100000", callback(SENDS))
    with launched(tmp_path, *line) as process:
        read_until(process, "rank 1 did 3")
        process.send_signal(getattr(signal, name))
        assert process.stdout is not None
        output = process.stdout.read()
        assert process.wait() == exits.TRY_AGAIN, output
    assert output.count(f"asked to stop ({name}): saved after step") == 1, output
    assert "started again" not in output


@pytest.mark.slow
@pytest.mark.parametrize(("command", "two"), [("launch", "-n=2"), ("run", "--trainer.devices=2")])
def test_point_14_a_second_ctrl_c_ends_both_ranks_at_once(micro: Path, tmp_path: Path, command: str, two: str) -> None:
    """As a terminal sends it: to the whole group of processes."""
    os.mkfifo(tmp_path / "pipe")
    hangs = callback("tests.faults.stops.Hangs", pipe=str(tmp_path / "pipe"))
    line = (two, str(micro)) if command == "launch" else (str(micro), two)
    with launched(tmp_path, *line, "--evaluation=[]", "--export=false", hangs, command=command) as process:
        for last in ("hangs", "Ctrl-C again ends it at once"):
            read_until(process, last)
            os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == exits.INTERRUPTED
        assert not ranks_of(process)


@pytest.mark.slow
def test_fault_36_a_killed_rank_ends_lightnings_own_launcher_by_the_table(micro: Path, tmp_path: Path) -> None:
    kill = callback(SENDS, name="SIGKILL", after=4, rank=1)
    line = ("run", str(micro), "--trainer.devices=2", "--evaluation=[]", "--export=false", kill)
    found, output = started(tmp_path, "neo_lightning", *line)
    assert found == exits.RANK_LOST, output
    assert "error: rank 1 (" in output


@pytest.mark.slow
def test_fault_36_a_killed_rank_is_started_again_with_equal_losses(micro: Path, tmp_path: Path) -> None:
    saver = callback("neo_lightning.training.callbacks.CommitCheckpoint", every_n_steps=1)
    kill = callback(SENDS, name="SIGKILL", after=4, rank=1, once=str(tmp_path / "once"))
    bare = ("--evaluation=[]", "--export=false", saver)
    found, output = started(tmp_path, "neo_lightning", "launch", "-n", "2", str(micro), *bare, kill)
    assert found == 0, output
    assert output.count("a rank was lost; all are started again (1 of 3)") == 1
    (tmp_path / "once").unlink()
    whole = f"--run.dir={tmp_path / 'whole'}"
    found, output = started(
        tmp_path, "neo_lightning", "launch", "--max-restarts", "0", "-n", "2", str(micro), *bare, kill, whole
    )
    assert found == exits.RANK_LOST, output
    found, output = started(tmp_path, "neo_lightning", "launch", "-n", "2", str(micro), *bare, whole)
    assert found == 0, output
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_what_launch_cannot_do_is_refused(micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, said in (
        (["-n", "2"], "name a recipe"),
        (["-n", "two", str(micro)], "invalid int value: 'two'"),
        (["--nnodes", "2", str(micro)], "--rdzv-endpoint HOST:PORT"),
        (["--max-restarts", "-1", str(micro)], "--max-restarts >= 0"),
    ):
        assert main(["launch", *wrong]) == exits.USER_ERROR
        assert said in capsys.readouterr().err
