"""A run whose last checkpoint is damaged goes on from the one in front; by name a damaged one is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.checkpoint import commit
from tests.faults.saving import flip
from tests.forks import Server

SAVER = "neo_lightning.training.callbacks.CommitCheckpoint"
SAVES = f"--trainer.callbacks+={{class_path: {SAVER}, init_args: {{every_n_steps: 1, keep_last: 0}}}}"
MAIN = "neo_lightning.cli.main:main"


@pytest.mark.slow
def test_point_05_damage_leads_back_and_is_refused_by_name(forks: Server, micro: Path, tmp_path: Path) -> None:
    line = ["run", str(micro), SAVES, "--evaluation=[]", "--export=false"]
    status, output = forks.run(MAIN, [*line, "--trainer.max_steps=5"])
    assert status == 0, output
    checkpoints = tmp_path / "run" / "checkpoints"
    last = checkpoints / "step-00000005"
    (file,) = last.glob("rank-*")
    flip(file, file.stat().st_size - 1)
    flip(checkpoints / "step-00000004" / "meta.pt", 500)
    status, output = forks.run(MAIN, ["model", "export", "--run", str(last), "--out", str(tmp_path / "model")])
    assert status in (0, 2), output  # the weights alone are read, and the last byte is of a random state
    flip(file, file.stat().st_size // 3)
    status, output = forks.run(MAIN, ["model", "export", "--run", str(checkpoints / "step-00000004"), "--out", "x"])
    assert (status, "meta.pt is not what was written" in output) == (2, True), output
    status, output = forks.run(MAIN, ["fit", str(micro), f"--ckpt_path={last}", f"--run.dir={tmp_path / 'other'}"])
    assert status == 2, output
    assert file.name in output
    assert "is not what was written" in output
    status, output = forks.run(MAIN, line)
    assert status == 0, output
    told = [text for text in output.splitlines() if text.startswith("damaged: ")]
    assert len(told) == 2, output
    assert file.name in told[0]
    assert "Going back to step-00000003: 2 steps are trained again" in told[0]
    assert "meta.pt" in told[1]
    assert "going on from" in output
    assert "step-00000003 (step 3 of 6)" in output
    assert [commit.step_of(path) for path in commit.committed(checkpoints)] == [1, 2, 3, 4, 5, 6]
    assert {path.name for path in checkpoints.glob("damaged-*")} == {f"damaged-step-0000000{n}" for n in (4, 5)}


@pytest.mark.slow
def test_point_05_two_ranks_go_back_to_the_same(forks: Server, micro: Path, tmp_path: Path) -> None:
    """Each compares its share; what one finds, both go back for."""
    line = ["run", str(micro), SAVES, "--evaluation=[]", "--export=false", "--trainer.devices=2"]
    status, output = forks.run(MAIN, [*line, "--trainer.max_steps=3"], ranks=2)
    assert status == 0, output
    checkpoints = tmp_path / "run" / "checkpoints"
    file = checkpoints / "step-00000003" / "rank-00001-of-00002.safetensors"
    flip(file, file.stat().st_size // 2)
    status, output = forks.run(MAIN, line, ranks=2)
    assert status == 0, output
    assert output.count("damaged: ") == 1, output
    assert file.name in output
    assert "step-00000002 (step 2 of 6)" in output
    for path in checkpoints.glob("*step-*"):
        for found in path.glob("rank-*"):
            flip(found, found.stat().st_size // 2)
    status, output = forks.run(MAIN, line, ranks=2)
    assert status in (0, 2), output  # 0: the run is complete, and nothing is read
    (checkpoints / "step-00000006").rename(tmp_path / "gone")
    status, output = forks.run(MAIN, line, ranks=2)
    assert status == 2, output
    assert "is whole:" in output
    assert not (checkpoints / "damaged-step-00000005").exists(), "none is set aside where no other is left"
