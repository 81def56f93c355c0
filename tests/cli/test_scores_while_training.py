"""Evaluations while a recipe trains: who gets the scores, what they decide, and that the training does not move."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from neo_lightning.checkpoint.commit import committed, step_of
from neo_lightning.cli.main import main
from tests.cli.test_run import losses

SCORED = """
from neo_lightning.evaluation import SceneEvaluation


class Scored(SceneEvaluation):
    \"\"\"Asks the model, and says what the test wants: the third asking is the best.\"\"\"

    def scores(self, engine, ranks):
        assert set(super().scores(engine, ranks)) == {"exact_match", "colour", "copy"}
        self.asked = getattr(self, "asked", 0) + 1
        return {"exact_match": [0.25, 0.5, 0.75, 0.5, 0.25, 0.0][self.asked - 1], "colour": 0.5, "copy": 0.25}
"""


@pytest.fixture
def scored(micro: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a run of six steps whose scores are known."""
    monkeypatch.syspath_prepend(str(micro.parent))
    (micro.parent / "my_scores.py").write_text(SCORED, encoding="utf-8")
    shards = micro.read_text().split("shards: '")[1].split("'")[0]
    asked = f"[{{class_path: my_scores.Scored, init_args: {{shards: '{shards}', name: mine, every_n_steps: 1}}}}]"
    return ["run", str(micro), f"--evaluation={asked}"]


def logged(run: Path) -> list[dict[str, str]]:
    with next(run.rglob("metrics.csv")).open() as file:
        return [row for row in csv.DictReader(file) if row.get("eval/mine")]


def test_scores_are_logged_shown_and_in_the_report_and_the_training_does_not_move(
    micro: Path, scored: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert main(["run", str(micro), "--run.dir", str(micro.parent / "unasked")]) == 0
    assert main(scored) == 0
    run = micro.parent / "run"
    assert losses(run) == losses(micro.parent / "unasked")
    rows = logged(run)
    assert [(int(row["step"]), float(row["eval/mine"])) for row in rows][:3] == [(1, 0.25), (2, 0.5), (3, 0.75)]
    assert {float(row["eval/mine/copy"]) for row in rows} == {0.25}
    assert "after step 3: eval/mine 0.7500 (exact_match;" in caplog.text
    report = json.loads((run / "report.json").read_text())
    (chart,) = [chart for chart in report["charts"] if chart["title"] == "Evaluation: mine"]
    assert [line["column"] for line in chart["lines"]] == ["eval/mine", "eval/mine/colour", "eval/mine/copy"]
    assert "Evaluation: mine" in (run / "report.html").read_text()


def test_at_stage_end_asks_at_the_ends_of_stages_alone(micro: Path, scored: list[str]) -> None:
    scored[-1] = scored[-1].replace("every_n_steps: 1", "at: stage_end")
    assert main(scored) == 0
    assert [int(row["step"]) for row in logged(micro.parent / "run")] == [2, 6]


def test_the_best_checkpoint_stays(micro: Path, scored: list[str]) -> None:
    saves = (
        "{class_path: neo_lightning.training.callbacks.CommitCheckpoint, init_args: {every_n_steps: 5, keep_last: 1, "
    )
    saves += "keep_stage_ends: false, keep_best: {eval/mine: max}}}"
    assert main([*scored, f"--trainer.callbacks=[{saves}]"]) == 0
    kept = [step_of(path) for path in committed(micro.parent / "run" / "checkpoints")]
    assert kept == [3, 6], "the best, and the last"


def test_a_run_ends_early_by_a_score(micro: Path, scored: list[str]) -> None:
    stops = "{class_path: lightning.pytorch.callbacks.EarlyStopping, "
    stops += "init_args: {monitor: eval/mine, mode: max, patience: 2}}"
    assert main([*scored, f"--trainer.callbacks=[{stops}]"]) == 0
    run = micro.parent / "run"
    assert json.loads((run / "ended.json").read_text())["step"] == 5
    assert [int(row["step"]) for row in logged(run)] == [1, 2, 3, 4, 5]
    assert (run / "report.html").is_file()
    assert main([*scored, f"--trainer.callbacks=[{stops}]"]) == 0, "done: the same command does nothing more"


@pytest.mark.parametrize("watched", ["eval/other", "eval/mine"])
def test_a_score_that_never_comes_is_refused(
    micro: Path, scored: list[str], watched: str, capsys: pytest.CaptureFixture[str]
) -> None:
    every = "0" if watched == "eval/mine" else "1"
    scored[-1] = scored[-1].replace("every_n_steps: 1", f"every_n_steps: {every}")
    stops = f"{{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {{monitor: {watched}}}}}"
    assert main([*scored, f"--trainer.callbacks=[{stops}]"]) == 2
    assert f"EarlyStopping watches {watched}" in capsys.readouterr().err
    assert not (micro.parent / "run" / "checkpoints").exists()


def test_what_evaluations_want_is_counted_beforehand(
    scored: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    scored[-1] = scored[-1].replace("every_n_steps: 1", "every_n_steps: 4, at: stage_end")
    assert main(["plan", *scored[1:], "--device", "cpu", "--devices", "2"]) == 0
    counted = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("│ mine"))
    assert counted.split("│")[2:-1] == ["     3 ", "         4 ", "      12 ", "                6 "], "after 2, 4 and 6"


def test_an_evaluation_without_scores_is_refused_before_the_first_step(
    micro: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(micro.parent))
    (micro.parent / "my_end.py").write_text(
        "from neo_lightning.evaluation import Evaluation\n\n\nclass AtTheEnd(Evaluation):\n    name = 'mine'\n\n"
        "    def __init__(self, every_n_steps: int = 0):\n        self.every_n_steps = every_n_steps\n\n"
        "    def run(self, context):\n        return {}\n",
        encoding="utf-8",
    )
    asked = "[{class_path: my_end.AtTheEnd, init_args: {every_n_steps: 2}}]"
    assert main(["run", str(micro), f"--evaluation={asked}"]) == 2
    assert "AtTheEnd cannot be asked while training" in capsys.readouterr().err
    assert not (micro.parent / "run" / "checkpoints").exists()
    assert main(["plan", str(micro), f"--evaluation={asked}", "--device", "cpu", "--devices", "1"]) == 0
    assert "?" in capsys.readouterr().out, "how many questions nobody knows"
