"""How a run ends before its last step, whose weights are read afterwards, and that one process owns its folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from neo_lightning.cli.main import main
from tests.cli.test_run import losses
from tests.owners import holder

LOGGER = """
import json
from pathlib import Path

from lightning.pytorch.loggers.logger import Logger


class Keeps(Logger):
    name, version = "keeps", ""

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        with self.file.open("a") as file:
            file.write(json.dumps(params) + "\\n")
"""
BAR = """
from lightning.pytorch.callbacks import ProgressBar


class Bar(ProgressBar):
    def disable(self):
        pass

    def enable(self):
        pass

    def on_train_batch_end(self, trainer, pl_module, *args):
        print("shown:", *sorted(self.get_metrics(trainer, pl_module)))
"""

GOOD_ENOUGH = (
    "{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val_loss, stopping_threshold: 99}}"
)


def files(folder: Path) -> dict[Path, bytes]:
    """All files below a folder."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_early_stop_ends_the_run_as_done(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    (tmp_path / "my_logger.py").write_text(LOGGER, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    logger = f"{{class_path: my_logger.Keeps, init_args: {{file: {tmp_path}/recipe.jsonl}}}}"
    line = ["run", str(micro), "--data.validation=[image, text]", "--trainer.val_check_interval=3"]
    line += [f"--trainer.callbacks+={GOOD_ENOUGH}", f"--trainer.logger={logger}"]
    assert main(line) == 0
    out = capsys.readouterr().out
    done = len(losses(run))
    assert done == 3
    assert f"the run is done after step {done} of 6: EarlyStopping: Stopping threshold reached" in out
    assert re.search(rf"validation after step {done}: loss [\d.]+, image [\d.]+, text [\d.]+", out)
    assert (run / "export" / "config.json").is_file()
    report = json.loads((run / "report.json").read_text())
    assert set(report["evaluations"]) == {"scenes"}
    assert any(f"ended after {done} of 6 steps: EarlyStopping" in text for text in report["summary"])
    assert main(line) == 0
    assert f"complete (ended after {done} of 6 steps" in capsys.readouterr().out
    assert len(losses(run)) == done, "the same command does not train on"
    (values,) = [json.loads(text) for text in (tmp_path / "recipe.jsonl").read_text().splitlines()]
    assert values["stages.two.lr"] == 1e-3
    assert values["stages.two.mixture.image"] == 2
    assert values["model.model.hidden_size"] == 16
    assert values["seed_everything"] == 3
    (run / "ended.json").unlink()
    assert main(["run", str(micro), "--evaluation=[]", "--export=false"]) == 0
    assert len(losses(run)) == 6, "without the note it is an unfinished run"


@pytest.mark.slow
def test_max_time_and_max_steps_stop_it_and_a_run_without_evaluations_has_a_report(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, bare = tmp_path / "run", ["run", str(micro), "--evaluation=[]", "--export=false"]
    assert main([*bare, "--trainer.max_time=00:00:00:00"]) == 75
    assert "trainer.max_time: the 0 s of this start are used up" in capsys.readouterr().out
    assert len(losses(run)) == 1
    assert main([*bare, "--trainer.max_steps=3"]) == 0
    assert "stopped after step 3 of 6: trainer.max_steps" in capsys.readouterr().out
    assert not (run / "report.json").exists()
    (run / "wall_seconds.json").write_text('{"training": 1')  # as a kill could leave it once
    with pytest.warns(UserWarning, match=r"wall_seconds\.json is damaged"):
        assert main(bare) == 0
    report = json.loads((run / "report.json").read_text())
    assert report["evaluations"] == {}
    assert report["curves"]["steps"] == [1, 2, 3, 4, 5, 6]
    assert report["model"]["parameters"] > 0
    assert "report.html" in capsys.readouterr().out
    assert (run / "report.html").is_file()
    assert main(bare) == 0
    assert "complete (6 steps" in capsys.readouterr().out
    assert main(["run", str(micro), "--export=false"]) == 0
    assert set(json.loads((run / "report.json").read_text())["evaluations"]) == {"scenes"}, "asked for afterwards"


def test_fast_dev_run_reads_and_leaves_nothing(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(micro), "--trainer.fast_dev_run=1"]) == 0
    assert "1 steps were done, and nothing of them is kept" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_a_callback_that_needs_a_logger_is_refused_before_the_first_step(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monitor = "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"
    for command in ("run", "fit"):
        assert main([command, str(micro), "--trainer.logger=false", monitor]) == 2
        error = capsys.readouterr().err
        assert "LearningRateMonitor" in error
        assert "no logger" in error
    assert main(["run", str(micro), "--trainer.accumulate_grad_batches=2"]) == 2
    assert "stages.NAME.packs_per_step" in capsys.readouterr().err
    assert not (tmp_path / "run").exists(), "a start that is refused leaves nothing"
    assert main(["run", str(micro), f"--run.dir={tmp_path}/a/b", "--data.manifest=nowhere.yaml"]) == 2
    assert not (tmp_path / "a").exists()


def test_a_start_that_a_callback_refuses_does_not_change_what_the_run_was_trained_with(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["run", str(micro), "--trainer.logger=false", "--evaluation=[]", "--export=false"]
    assert main([*line, "--trainer.max_steps=1"]) == 0
    before = files(tmp_path / "run")
    monitor = "--trainer.callbacks+=lightning.pytorch.callbacks.LearningRateMonitor"
    assert main([*line, "--stages.two.lr=5e-3", monitor]) == 2
    assert files(tmp_path / "run") == before
    capsys.readouterr()
    assert main([*line, "--trainer.max_steps=2"]) == 0
    assert "another recipe" not in capsys.readouterr().out, "the refused one trained nothing"


def test_a_validation_that_never_comes_is_said(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    stopping = f"--trainer.callbacks+={GOOD_ENOUGH}"
    for wrong, said in (
        (["--trainer.val_check_interval=2"], "val_check_interval: 2 validates nothing"),
        ([stopping], "EarlyStopping monitors val_loss, and nothing validates"),
        ([stopping, "--data.validation=[image]"], "trainer.val_check_interval"),
    ):
        assert main(["run", str(micro), *wrong]) == 2
        assert said in capsys.readouterr().err
    (tmp_path / "my_bar.py").write_text(BAR, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(tmp_path))
        line = ["run", str(micro), "--data.validation=[image]", "--evaluation=[]", "--trainer.max_steps=1"]
        assert main([*line, "--trainer.callbacks+=my_bar.Bar"]) == 0
    assert "shown: train_loss" in capsys.readouterr().out, "a bar of the user's own sees the loss"
    assert "data.validation: image are not read while training" in caplog.text


@pytest.mark.slow
def test_validate_test_and_predict_read_the_runs_last_checkpoint(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, held_out = tmp_path / "run", "--data.validation=[image, text]"
    for command in ("validate", "test", "predict"):
        assert main([command, str(micro), held_out]) == 2
        error = capsys.readouterr().err
        assert "no committed checkpoint" in error
        assert "--ckpt_path" in error
        assert "lightning run" in error
    assert main(["run", str(micro), "--evaluation=[]"]) == 0
    before = files(run)
    capsys.readouterr()

    def found(*line: str, name: str = "val_loss") -> tuple[str, str]:
        assert main([*line, held_out]) == 0
        out = capsys.readouterr().out
        assert f"{name}/image" in out
        weights = re.search(r"weights: (.*)", out)
        loss = re.search(rf"{name} +│ +([\d.]+)", out)
        assert weights
        assert loss
        return weights[1], loss[1]

    last, first = run / "checkpoints" / "step-00000006", run / "checkpoints" / "step-00000002"
    at_the_end = found("validate", str(micro))
    assert at_the_end[0] == str(last)
    assert found("validate", "--config", str(micro), f"--ckpt_path={last}") == at_the_end
    assert found("validate", str(micro), f"--ckpt_path={run}") == at_the_end
    earlier = found("validate", str(micro), f"--ckpt_path={first}")
    assert earlier[0] == str(first)
    assert earlier[1] != at_the_end[1]
    assert found("test", str(micro), name="test_loss")[1] == at_the_end[1]
    exported = [f"--model.init={{kind: released, folder: {run}/export}}", f"--run.dir={tmp_path}/none"]
    origin, loss = found("validate", str(micro), *exported)
    assert origin.startswith("model.init (released")
    assert loss == at_the_end[1]
    assert main(["predict", str(micro), held_out]) == 0
    assert f"weights: {last}" in capsys.readouterr().out
    assert main(["validate", str(micro), held_out, "--ckpt_path=nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert files(run) == before, "what only reads changes nothing in the run's folder"


def test_one_process_owns_the_runs_folder(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder(tmp_path / "run" / "run.lock") as process:
        for command in ("run", "fit"):
            assert main([command, str(micro)]) == 2
            error = capsys.readouterr().err
            assert f"{tmp_path / 'run'} is in use by" in error
            assert f"pid {process.pid}" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.lock"], "nothing was done there"
