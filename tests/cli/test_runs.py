"""`lightning runs`: what is said of whole, damaged, running, killed and foreign folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from neo_lightning.cli.main import main
from neo_lightning.cli.runs import find, look_at
from tests.forks import clean_environment

RECIPE = """run:
  name: x
stages:
  one:
    steps: 200
    lr: 1.0e-3
  # a comment
  two:
    steps: 600
    lr: 1.0e-3
data:
  manifest: m.yaml
"""


def run_at(folder: Path, step: int, ranks: int = 2) -> Path:
    """A run's folder with a checkpoint and a log."""
    checkpoint = folder / "checkpoints" / f"step-{step:08d}"
    checkpoint.mkdir(parents=True)
    for rank in range(ranks):
        save_file({"weights/a": torch.zeros(3)}, checkpoint / f"rank-{rank:05d}-of-{ranks:05d}.safetensors")
    (checkpoint / "meta.pt").write_bytes(b"meta")
    (folder / "recipe.yaml").write_text(RECIPE)
    lines = ["step,loss,tokens,val_loss", "10,2.5,1000,", f"{step},1.25,1234567,", f"{step},,,0.5", "9999,0.1"]
    (folder / "metrics.csv").write_text("\n".join(lines))  # the last line was cut by a kill
    return folder


def test_a_run_says_where_it_stands(tmp_path: Path) -> None:
    line = look_at(run_at(tmp_path / "a" / "b", 250), tmp_path)
    assert (line.name, line.stage, line.step, line.health) == ("a/b", "two", "250 of 800", "whole")
    assert (line.last, line.tokens, line.loss) == ("stopped", "1.23M", "1.2500")
    assert abs(line.active - time.time()) < 3600


@pytest.mark.parametrize(
    ("status", "lock", "report", "step", "said"),
    [
        ({"outcome": "try again", "status": 75, "step": 250}, None, False, 250, "try again"),
        ({"outcome": "running", "step": 250}, 1.0, False, 250, "running"),
        ({"outcome": "running", "step": 250}, 9000.0, False, 250, "killed"),
        ({"outcome": "running", "step": 250}, None, False, 250, "killed"),
        (None, 1.0, False, 250, "running"),
        (None, None, False, 800, "trained"),
        (None, None, True, 800, "done"),
    ],
)
def test_how_the_last_start_went(
    tmp_path: Path, status: dict[str, object] | None, lock: float | None, report: bool, step: int, said: str
) -> None:
    run = run_at(tmp_path / "run", step)
    if status is not None:
        (run / "status.json").write_text(json.dumps(status))
    if lock is not None:
        (run / "run.lock").touch()
        os.utime(run / "run.lock", (time.time() - lock,) * 2)
    if report:
        (run / "report.json").write_text("{}")
    assert look_at(run, tmp_path).last == said


def test_damaged_folders_break_no_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage = {
        "cut": ("rank-00001-of-00002.safetensors", lambda file: file.write_bytes(file.read_bytes()[:-1])),
        "lost": ("rank-00001-of-00002.safetensors", Path.unlink),
        "noise": ("rank-00000-of-00002.safetensors", lambda file: file.write_bytes(b"\xff" * 40)),
        "short": ("rank-00000-of-00002.safetensors", lambda file: file.write_bytes(b"")),
        "metaless": ("meta.pt", Path.unlink),
    }
    for name, (file, harm) in damage.items():
        harm(run_at(tmp_path / name, 100) / "checkpoints" / "step-00000100" / file)
        assert look_at(tmp_path / name, tmp_path).health.startswith("damaged"), name
    for name, text in {"list": "[1]", "bytes": "\x00\xff", "deep": "[" * 10_000, "half": "stages: {one: "}.items():
        run = run_at(tmp_path / name, 100)
        for file in ("recipe.yaml", "status.json", "metrics.csv"):
            (run / file).write_text(text, encoding="latin-1")
        assert look_at(run, tmp_path).health == "whole"
    (tmp_path / "[red]markup[/red]" / "checkpoints").mkdir(parents=True)
    (tmp_path / "not a run").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    assert main(["runs", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in (*damage, "list", "bytes", "deep", "half", "[red]markup[/red]"))
    assert "not a run" not in table
    assert len(find(tmp_path)) == len(damage) + 5
    assert main(["runs", str(tmp_path / "nowhere")]) == 2


def test_a_real_run(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(micro), "--evaluation=[]", "--export=false", "--trainer.max_steps=3"]) == 0
    capsys.readouterr()
    assert main(["runs", str(tmp_path)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "of 6" in line]
    assert line.split()[:6] == ["run", "two", "3", "of", "6", "whole"]


@pytest.mark.slow
def test_a_thousand_runs_need_no_torch(tmp_path: Path) -> None:
    run = run_at(tmp_path / "0", 250)
    for number in range(1, 1000):
        other = tmp_path / f"{number}"
        (other / "checkpoints").mkdir(parents=True)
        (other / "checkpoints" / "step-00000250").symlink_to(run / "checkpoints" / "step-00000250")
        for name in ("recipe.yaml", "metrics.csv"):
            os.link(run / name, other / name)
    program = (
        "import sys, time; from neo_lightning.cli.main import main; began = time.process_time();"
        f"main(['runs', {str(tmp_path)!r}]); print(time.process_time() - began);"
        "print(sorted({'torch', 'lightning', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=clean_environment(), check=True
    )
    *table, seconds, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert sum("250 of 800" in line for line in table) == 1000
    assert float(seconds) < 30, "a few milliseconds each"
