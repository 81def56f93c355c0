"""Two ranks of one command line start together or not at all, whatever a launcher does with those that are left."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.forks import Server, clean_environment
from tests.owners import holder

PATIENCE = 0.5
"""Minutes that the process group waits."""


def start(forks: Server, folder: Path, *argv: str) -> tuple[list[int], str]:
    """Status of each of two ranks, and what they print. Nobody ends one because the other has ended."""
    two = ["--trainer.devices=2", "--trainer.strategy=neo_lightning.training.strategy.NeoStrategy"]
    two.append(f"--trainer.strategy.timeout_minutes={PATIENCE}")
    status, output = forks.run("tests.cli.ranks:start", str(folder), [*argv, *two], ranks=2)
    assert status == 0, output
    return [int((folder / f"status-{rank}").read_text()) for rank in range(2)], output


@pytest.mark.parametrize("command", ["run", "fit"])
def test_a_folder_that_another_process_owns_ends_all_ranks_at_once(
    forks: Server, micro: Path, tmp_path: Path, command: str
) -> None:
    began = time.monotonic()
    with holder(tmp_path / "run" / "run.lock") as process:
        status, output = start(forks, tmp_path, command, str(micro))
        assert status == [2, 2], output
        assert process.poll() is None
    assert output.count(f"{tmp_path / 'run'} is in use by") == output.count(f", pid {process.pid}, ") == 2
    assert output.count("rank 0 cannot start: ") == 1, "the other rank's words"
    assert time.monotonic() - began < PATIENCE * 60, "not by the process group's patience"


def test_what_refuses_one_rank_is_said_by_all_and_leaves_nothing(
    forks: Server, micro: Path, scenes: Path, tmp_path: Path
) -> None:
    (tmp_path / "rank0").symlink_to(scenes)  # the other rank's machine does not have the data
    manifest = f"--data.manifest={tmp_path}/rank${{oc.env:LOCAL_RANK}}/manifest.yaml"
    status, output = start(forks, tmp_path, "run", str(micro), manifest)
    assert status == [2, 2], output
    assert output.count("rank 1 cannot start: ") == 1, "the other rank's words"
    assert output.count("error: ") == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_two_ranks_train_to_the_end_and_agree_that_it_is_done(forks: Server, micro: Path, tmp_path: Path) -> None:
    line = ["run", str(micro), "--trainer.devices=2"]  # rank 0 evaluates alone
    by_lightning = subprocess.run(
        [sys.executable, "-m", "neo_lightning", *line, "--trainer.max_steps=3"],
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert by_lightning.returncode == 0, by_lightning.stderr
    assert "stopped after step 3 of 6" in by_lightning.stdout
    for said in ("report: ", "this run is complete (6 steps"):
        status, output = start(forks, tmp_path, *line)
        assert status == [0, 0], output
        assert said in output
