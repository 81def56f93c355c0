"""`lightning run` from the command line to the report: resumed after a kill, after SIGTERM, and when it is complete."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neo_lightning.cli.main import main
from tests.forks import Server, clean_environment

CALLBACKS = '''
import os
import signal

from lightning.pytorch import Callback


class Signals(Callback):
    """Sends this process a signal after a step."""

    def __init__(self, after: int, name: str) -> None:
        self.after, self.number = after, getattr(signal, name)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == self.after:
            os.kill(os.getpid(), self.number)
'''


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(line["loss"]) for line in csv.DictReader(file)]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(forks: Server, micro: Path, tmp_path: Path) -> None:
    (tmp_path / "my_callbacks.py").write_text(CALLBACKS, encoding="utf-8")
    saver = "neo_lightning.training.callbacks.CommitCheckpoint"
    save = f"--trainer.callbacks+={{class_path: {saver}, init_args: {{every_n_steps: 3, asynchronous: false}}}}"
    kill = [
        "--trainer.callbacks+=my_callbacks.Signals",
        "--trainer.callbacks.after=4",
        "--trainer.callbacks.name=SIGKILL",
    ]

    arguments = ["run", str(micro), save]
    line = [sys.executable, "-m", "neo_lightning", *arguments, *kill]
    killed = subprocess.run(line, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True)
    run = tmp_path / "run"
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    assert (run / "checkpoints" / "step-00000003").is_dir()
    assert not (run / "export").exists()

    whole = tmp_path / "whole"
    for more in ([], [f"--run.dir={whole}"]):
        status, output = forks.run("neo_lightning.cli.main:main", [*arguments, *more], cwd=tmp_path)
        assert status == 0, output

    assert losses(run)[-3:] == losses(whole)[-3:], "steps 4 to 6 were done after the resume"
    resumed, straight = (load_file(folder / "export" / "model.safetensors") for folder in (run, whole))
    assert resumed.keys() == straight.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name
    report = json.loads((run / "report.json").read_text())
    assert set(report["evaluations"]["scenes"]["types"]) == {"colour", "copy"}
    assert report["failures"] == [], "the export answers as the trained model does"
    assert (run / "report.html").is_file()
    assert (run / "recipe.yaml").is_file()


def test_a_finished_run_does_only_what_is_missing(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["run", str(micro)]) == 0
    config, before = run / "export" / "config.json", losses(run)
    capsys.readouterr()
    assert main(["run", str(micro)]) == 0
    assert "complete" in capsys.readouterr().out
    written = json.loads(config.read_text())
    config.unlink()
    assert main(["run", str(micro), "--evaluation=[]"]) == 0
    assert json.loads(config.read_text()) == written
    assert losses(run) == before, "nothing was trained again"
    # the export is a model like any other: it can be described, checked, and started from
    capsys.readouterr()
    for described in (run, run / "export"):
        assert main(["model", "info", str(described)]) == 0
        budget = [line.split() for line in capsys.readouterr().out.splitlines() if "_pixels" in line]
        assert [words[-1 if words[-1] != "│" else -2] for words in budget] == ["4,096", "4,096"], "the last stage's"
    assert main(["model", "import", "--model", str(run / "export"), "--out", str(tmp_path / "copy")]) == 0
    copy, exported = (load_file(f / "model.safetensors") for f in (tmp_path / "copy", run / "export"))
    name = next(iter(exported))
    assert torch.equal(copy[name], exported[name].to(copy[name].dtype))
    line = ["model", "export", "--run", str(run), "--dtype", "float32"]
    assert main([*line, "--out", str(tmp_path / "again")]) == 0
    assert torch.equal(load_file(tmp_path / "again" / "model.safetensors")[name], exported[name])


def test_sigterm_saves_and_asks_to_be_run_again(
    micro: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_signals.py").write_text(CALLBACKS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    stop = "--trainer.callbacks+={class_path: my_signals.Signals, init_args: {after: 3, name: SIGTERM}}"
    assert main(["run", str(micro), stop, "--evaluation=[]"]) == 75
    (checkpoint,) = [p for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name != "step-00000002"]
    assert 3 <= int(checkpoint.name.removeprefix("step-")) <= 4
    assert main(["run", str(micro), "--stages.two.mixture.image=7"]) == 2
    error = capsys.readouterr().err
    assert "mixture.image: was 2.0, is 7.0" in error, "other data than the checkpoint's is refused with the difference"
    assert "run.dir" in error
    assert main(["run", str(micro), "--evaluation=[]", "--export=false"]) == 0
    assert len(losses(tmp_path / "run")) == 6


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stages.two.lrr=1"], ["stages.two.lrr", "Did you mean 'lr'?"]),
        (["--stages.two.lr=fast"], ["--stages.two.lr=fast", "float", "fast"]),
        (["--stages.two.mixture.image=-1"], ["stages.two", "'image' must be positive"]),
        (["--stages.two.mixture.images=1"], ["two", "no source 'images'", "'image'"]),
        (["--stages.two.trains=[patch_embeding]"], ["two", "patch_embeding", "Nearest: patch_embedding"]),
        (["--stages.two.image={min_pixels: 1048576, max_pixels: 1048576}"], ["two", "min_pixels 1048576", "192"]),
        (["--data.manifest=nowhere.yaml"], ["nowhere.yaml"]),
        (["--data.workers=3"], ["data.workers", "Did you mean 'data.num_workers'?"]),
        (["--model.model.hidden=8"], ["'hidden'", "hidden_size"]),
        (["--model.model.vocab_size=100"], ["tokenizer has", "only 100 embeddings", "--vocab-size"]),
        (["--model.init={kind: released, folder: /nowhere}"], ["/nowhere"]),
        (["--trainer.callbacks+=my_own.Missing"], ["my_own.Missing"]),
    ],
)
def test_what_is_wrong_is_said_before_the_first_step(
    arguments: list[str], said: list[str], micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(micro), *arguments]) == 2
    error = capsys.readouterr().err
    for part in said:
        assert part in error
    assert "Traceback" not in error
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_shards_that_match_nothing_are_refused(
    micro: Path, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("sources: {text: {modality: text, shards: none-*.tar}}", encoding="utf-8")
    assert main(["run", str(micro), f"--data.manifest={manifest}"]) == 2
    assert "none-*.tar" in capsys.readouterr().err


def test_lightnings_own_fit(micro: Path, tmp_path: Path) -> None:
    line = ["fit", "--config", str(micro), "--trainer.max_steps=1", "--stages.one.lr=1e-4"]
    assert main(line) == 0
    assert len(losses(tmp_path / "run")) == 1
    assert not (tmp_path / "run" / "export").exists()


def test_held_out_shards_that_match_nothing_are_refused_before_the_training(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    none = "[{class_path: neo_lightning.evaluation.SceneEvaluation, init_args: {shards: none-*.tar}}]"
    assert main(["run", str(micro), f"--evaluation={none}"]) == 2
    assert "none-*.tar" in capsys.readouterr().err
    assert not (tmp_path / "run" / "checkpoints").exists()
