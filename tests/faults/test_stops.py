"""Row 33: a run that is asked to stop saves within a step, on all ranks, whatever it is doing, and ends with 75."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.test_killed import state
from tests.forks import Run, Server

BARE = ("--evaluation=[]", "--export=false")
SENDS = "tests.faults.stops.Sends"


@pytest.fixture
def stalling(micro: Path, tmp_path: Path) -> Path:
    """The micro recipe with data that do not come from step 3 on, until somebody removes the pipe."""
    os.mkfifo(tmp_path / "pipe")
    recipe = yaml.safe_load(micro.read_text())
    own = {"pipe": str(tmp_path / "pipe"), "stalls_at": 3}
    recipe["data"] = {"class_path": "tests.faults.stops.StallingData", "init_args": recipe["data"] | own}
    file = tmp_path / "stalling.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


def losses(run: Path) -> list[float]:
    """Of each step; lines of a validation have none."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(line["loss"]) for line in csv.DictReader(file) if line["loss"]]


def statuses(folder: Path, count: int) -> list[int]:
    return [int((folder / f"status-{rank}").read_text()) for rank in range(count)]


def read_until(run: Run, text: str) -> str:
    """What a run has printed up to a line that holds `text`."""
    seen = ""
    for line in run.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"{text!r} never came:\n{seen}")


def committed(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())


def as_undisturbed(forks: Server, recipe: Path, folder: Path, *argv: str, count: int = 1) -> None:
    """The same command goes on to the end, and gives the losses of a run that nobody disturbed."""
    for more in ((), (f"--run.dir={folder / 'whole'}",)):
        status, output = forks.run(
            "tests.faults.stops:command", str(folder), ["run", str(recipe), *BARE, *argv, *more], ranks=count
        )
        assert status == 0, output
        assert statuses(folder, count) == [0] * count, output
    assert losses(folder / "run") == losses(folder / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_fault_33_point_04_data_that_do_not_come_do_not_keep_a_run_from_saving(
    forks: Server, stalling: Path, tmp_path: Path, workers: int
) -> None:
    line = ["run", str(stalling), *BARE, f"--data.num_workers={workers}", f"--trainer.callbacks+={SENDS}"]
    with forks.start("tests.faults.stops:command", str(tmp_path), line) as run:
        read_until(run, "rank 0 did 2")
        os.kill(run.group, signal.SIGTERM)
        output = run.stdout.read()
        assert run.wait() == 0, output
    assert statuses(tmp_path, 1) == [75], output
    assert "asked to stop (SIGTERM): saved after step 3" in output
    assert committed(tmp_path)[-1] == "step-00000003"
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert (status["outcome"], status["status"], status["step"]) == ("try again", 75, 3)
    (tmp_path / "pipe").unlink()
    as_undisturbed(forks, stalling, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "did"), [((), 2), (("--trainer.limit_train_batches=100",), 3)], ids=["ahead", "not_ahead"]
)
def test_fault_33_point_04_a_rank_that_waits_for_data_stops_with_one_that_waits_for_it(
    forks: Server, stalling: Path, tmp_path: Path, limits: Sequence[str], did: int
) -> None:
    """Rank 0 gets the signal in a collective, which ends only when rank 1, whose data stall, comes to it."""
    argv = ["--data.on_rank=1", "--data.num_workers=1", "--trainer.devices=2", *limits]
    line = ["run", str(stalling), *BARE, *argv, f"--trainer.callbacks+={SENDS}"]
    with forks.start("tests.faults.stops:command", str(tmp_path), line, ranks=2) as run:
        read_until(run, f"rank 1 did {did}")
        os.kill(run.group, signal.SIGTERM)
        output = run.stdout.read()
        assert run.wait() == 0, output
    assert statuses(tmp_path, 2) == [75, 75], output
    assert output.count("saved after step 3") == 1, output
    assert committed(tmp_path)[-1] == "step-00000003"
    (tmp_path / "pipe").unlink()
    as_undisturbed(forks, stalling, tmp_path, *argv, count=2)


def test_fault_33_point_03_no_validation_behind_a_stop(forks: Server, micro: Path, tmp_path: Path) -> None:
    sends = f"--trainer.callbacks+={{class_path: {SENDS}, init_args: {{after: 3}}}}"
    line = ["run", str(micro), *BARE, "--data.validation=[image]", "--trainer.val_check_interval=2", sends]
    status, output = forks.run("tests.faults.stops:command", str(tmp_path), line)
    assert status == 0, output
    assert statuses(tmp_path, 1) == [75], output
    assert re.findall(r"validates after (\d+)", output) == ["2"]
    assert "saved after step 4" in output


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_fault_33_a_stop_in_a_validation_saves_at_once_and_the_validation_is_done_again(
    forks: Server,
    micro: Path,
    tmp_path: Path,
    count: int,
) -> None:
    def sends(where: str) -> str:
        return f"--trainer.callbacks+={{class_path: {SENDS}, init_args: {{{where}}}}}"

    argv = ["--data.validation=[image, text]", "--trainer.val_check_interval=3", f"--trainer.devices={count}"]
    line = ["run", str(micro), *BARE, *argv]
    said = {}
    for name, where, wanted in (("run", "in_validation: true", 75), ("run", "rank: 9", 0), ("whole", "rank: 9", 0)):
        whole = [*line, sends(where), f"--run.dir={tmp_path / name}"]
        status, output = forks.run("tests.faults.stops:command", str(tmp_path), whole, ranks=count)
        assert status == 0, output
        assert statuses(tmp_path, count) == [wanted] * count, output
        said[name] = re.findall(r"validation after step \d: .*", output)
        if wanted:
            assert said[name] == [], output
            assert "saved after step 3" in output
    assert len(said["whole"]) == 2
    assert said["run"] == said["whole"], "the validation that was left, from its first row"
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


@pytest.mark.slow
def test_fault_33_ranks_that_only_score_stop_together(forks: Server, micro: Path, tmp_path: Path) -> None:
    """What rank 1 is asked ends rank 0 as well, and neither in a collective that the other is not in."""
    argv = [str(micro), "--data.validation=[image, text]", "--trainer.devices=2"]
    status, output = forks.run("tests.faults.stops:command", str(tmp_path), ["run", *argv, *BARE], ranks=2)
    assert status == 0, output
    sends = f"--trainer.callbacks+={{class_path: {SENDS}, init_args: {{in_validation: true, rank: 1}}}}"
    for command in ("validate", "test", "predict"):
        status, output = forks.run("tests.faults.stops:command", str(tmp_path), [command, *argv, sends], ranks=2)
        assert status == 0, output
        assert statuses(tmp_path, 2) == [75, 75], f"{command}: {output}"
        assert output.count("nothing is lost, the same command goes on") == 1, f"{command}: {output}"


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_fault_33_a_stop_between_tokens_of_an_answer(forks: Server, micro: Path, tmp_path: Path, count: int) -> None:
    recipe = yaml.safe_load(micro.read_text())
    recipe["evaluation"][0]["init_args"] |= {"every_n_steps": 3, "max_new_tokens": 64}
    micro.write_text(yaml.safe_dump(recipe, sort_keys=False))
    line = ["run", str(micro), "--export=false", f"--trainer.devices={count}"]
    status, output = forks.run("tests.faults.stops:answering", line, str(tmp_path), 2, ranks=count)
    assert status == 0, output
    assert statuses(tmp_path, count) == [75] * count, output
    step = 3 if count == 1 else 2  # several devices show samples at the end of a stage, which is after step 2
    assert f"saved after step {step}" in output
    assert committed(tmp_path)[-1] == f"step-0000000{step}"
    as_undisturbed(forks, micro, tmp_path, f"--trainer.devices={count}", count=count)


def test_point_14_ctrl_c_saves_and_a_second_one_ends_at_once(forks: Server, micro: Path, tmp_path: Path) -> None:
    sends = f"--trainer.callbacks+={{class_path: {SENDS}, init_args: {{name: SIGINT, after: 3}}}}"
    _status, output = forks.run("tests.faults.stops:command", str(tmp_path), ["run", str(micro), *BARE, sends])
    assert statuses(tmp_path, 1) == [75], output
    assert "asked to stop (SIGINT): saved after step 4" in output
    os.mkfifo(tmp_path / "pipe")
    hangs = f"--trainer.callbacks+={{class_path: tests.faults.stops.Hangs, init_args: {{pipe: {tmp_path}/pipe}}}}"
    with forks.start("tests.faults.stops:command", str(tmp_path), ["run", str(micro), *BARE, hangs]) as run:
        for last in ("hangs", "Ctrl-C again ends it at once"):
            read_until(run, last)
            os.kill(run.group, signal.SIGINT)
        assert run.wait() == 130
    assert committed(tmp_path)[-1] == "step-00000004", "nothing more"


MOMENTS = ("tokens", "recipe.yaml", "step-00000002", "metrics.csv", "model.safetensors", "report.json", "report.html")
"""What is about to be put in its place when a signal comes; the first is of an index."""


@pytest.mark.slow
def test_fault_33_point_14_a_stop_at_any_change_of_a_file_leaves_nothing_half_done(
    forks: Server, micro: Path, scenes: Path, tmp_path: Path
) -> None:
    def line(folder: Path) -> tuple[list[str], str]:
        shutil.copytree(scenes, folder / "scenes", ignore=shutil.ignore_patterns(".neo_index"))
        (folder / "micro.yaml").write_text(micro.read_text().replace(str(scenes), str(folder / "scenes")))
        return ["run", str(folder / "micro.yaml"), f"--run.dir={folder / 'run'}", f"--export={folder / 'model'}"], str(
            folder
        )

    def left(folder: Path) -> dict[str, Any]:
        more = ("scenes", "micro.yaml", *(f"run/checkpoints/step-0000000{step}" for step in (1, 3, 4, 5)))
        return {name: value for name, value in state(folder).items() if not name.startswith(more)}

    whole, changes = tmp_path / "whole", tmp_path / "changes"
    status, output = forks.run("tests.faults.stops:signalled", *line(whole), 0, str(changes))
    assert status == 0, output
    listed = changes.read_text().splitlines()
    for number, name in enumerate(MOMENTS):
        moment = 1 + max(i for i, change in enumerate(listed) if change.startswith("os.rename") and name in change)
        argv, folder = line(tmp_path / str(number))
        status, output = forks.run("tests.faults.stops:signalled", argv, folder, moment)
        assert status == 75, f"{name}: {output}"
        assert "Traceback" not in output, name
        hidden = [path.name for path in Path(folder).rglob(".*") if path.name != ".neo_index"]
        assert not hidden, f"{name}: half-written files"
        status, output = forks.run("tests.faults.stops:signalled", argv, folder, 0)
        assert status == 0, f"{name}: {output}"
        assert left(Path(folder)) == left(whole), f"stopped in front of {name}"
