"""A run that goes on by another recipe, and one that branches off: what is exact, what is asked, what is refused."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from neo_lightning.cli.main import main
from tests.cli.conftest import RECIPE

THREE = "--stages.three={steps: 2, context: 192, packs_per_step: 1, mixture: {text: 1}, lr: 1e-3}"
pytestmark = pytest.mark.slow
NO_END = ["--evaluation=[]", "--export=false"]
SAVER = "neo_lightning.training.callbacks.CommitCheckpoint"
EVERY_STEP = f"--trainer.callbacks+={{class_path: {SAVER}, init_args: {{every_n_steps: 1, keep_last: 0}}}}"


def losses(run: Path) -> dict[int, float]:
    """Step -> loss of the last time that it was trained."""
    with (run / "metrics.csv").open(newline="") as file:
        return {int(line["step"]): float(line["loss"]) for line in csv.DictReader(file)}


def rates(run: Path) -> dict[int, float]:
    with (run / "metrics.csv").open(newline="") as file:
        return {int(line["step"]): float(line["lr"]) for line in csv.DictReader(file)}


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    (file,) = checkpoint.glob("rank-*.safetensors")
    return {name: x for name, x in load_file(file).items() if name.startswith("weights/")}


def trained(micro: Path, folder: Path, *more: str) -> Path:
    """A run in a folder of its own."""
    assert main(["run", str(micro), *NO_END, EVERY_STEP, f"--run.dir={folder}", *more]) == 0
    return folder


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro recipe, trained to its end with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("finished")
    file = folder / "micro.yaml"
    file.write_text(RECIPE.format(dir=folder / "run", scenes=scenes), encoding="utf-8")
    return trained(file, folder / "run")


def stands_at(step: int, finished: Path, folder: Path) -> Path:
    """A copy of the finished run as it was after so many steps."""
    shutil.copytree(finished, folder)
    forget(folder, *range(step + 1, 7))
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[: step + 1]))
    return folder


def forget(run: Path, *steps: int) -> None:
    """Its checkpoints of these steps were never saved."""
    for step in steps:
        shutil.rmtree(run / "checkpoints" / f"step-{step:08d}")


def test_other_stages_to_come_go_on_as_if_they_had_been_there_from_the_start(
    micro: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change = ["--stages.two.packs_per_step=3", "--stages.two.mixture={image: 1}", "--stages.two.lr=5e-4"]
    change += [
        "--stages.two.steps=3",
        "--stages.three={steps: 2, context: 192, packs_per_step: 1, mixture: {text: 1}, lr: 1e-3}",
    ]
    run = stands_at(2, finished, tmp_path / "run")
    capsys.readouterr()
    trained(micro, run, *change)
    said = capsys.readouterr().out
    assert "from here on with another recipe than so far:" in said
    assert "stages.two.packs_per_step: was 2, is 3" in said
    assert "stages.three.steps: was None, is 2" in said
    whole = trained(micro, tmp_path / "whole", *change)
    assert losses(run) == losses(whole)
    assert len(losses(run)) == 7
    last = "checkpoints/step-00000007"
    assert all(torch.equal(x, weights(whole / last)[name]) for name, x in weights(run / last).items())
    former = yaml.safe_load((run / "recipes" / "until-00000002.yaml").read_text())
    assert former["stages"]["two"]["packs_per_step"] == 2
    assert yaml.safe_load((run / "recipe.yaml").read_text())["stages"]["two"]["packs_per_step"] == 3
    assert not (whole / "recipes").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("--stages.two.lr=2e-3", "stages.two.lr: was 0.001, is 0.002"),
        ("--stages.two.packs_per_step=3", "stages.two.packs_per_step: was 2, is 3"),
        ("--stages.two.mixture={text: 1, image: 5}", "stages.two.mixture.image: was 2.0, is 5.0"),
        ("--stages.two.steps=6", "stages.two.steps: was 4, is 6 (the learning rate follows the length: the 3 steps"),
        ("--model.weight_decay=0.1", "model.weight_decay: was 0.01, is 0.1"),
    ],
)
def test_what_would_have_trained_the_steps_done_otherwise_is_asked_once(
    micro: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, said: str
) -> None:
    done = 5 if "two.steps" in change else 4  # the third step is the first that such a schedule moves
    run = stands_at(done, finished, tmp_path / "run")
    before = (run / "recipe.yaml").read_text()
    line = ["run", str(micro), *NO_END, EVERY_STEP, f"--run.dir={run}", change]
    capsys.readouterr()
    assert main(line) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "say --accept-changes" in error
    assert f"--from {run / 'checkpoints' / f'step-{done:08d}'}" in error
    assert (run / "recipe.yaml").read_text() == before, "a refused start leaves nothing"
    assert len(losses(run)) == done
    assert main([*line, f"--trainer.max_steps={done + 1}", "--accept-changes"]) == 0
    assert said in capsys.readouterr().out
    assert (run / "recipes" / f"until-{done:08d}.yaml").read_text() == before
    assert main(line) == 0, "it is the run's recipe now"
    assert "another recipe" not in capsys.readouterr().out
    assert len(losses(run)) == (8 if "two.steps" in change else 6)


def test_an_accepted_start_that_saved_nothing_is_not_asked_again(micro: Path, finished: Path, tmp_path: Path) -> None:
    run = stands_at(3, finished, tmp_path / "run")
    line = ["run", str(micro), *NO_END, f"--run.dir={run}", "--stages.two.packs_per_step=3", "--trainer.max_steps=4"]
    assert main([*line, EVERY_STEP, "--accept-changes"]) == 0
    forget(run, 4)  # killed in front of it
    assert main(line) == 0
    assert len(losses(run)) == 4
    assert main(["run", str(micro), *NO_END, f"--run.dir={run}"]) == 2, "the recipe of before is another one now"


def test_the_rate_follows_the_new_recipe_from_the_step_on(micro: Path, finished: Path, tmp_path: Path) -> None:
    run = stands_at(4, finished, tmp_path / "run")
    other = trained(micro, tmp_path / "other", "--stages.two.lr=2e-3", "--stages.two.steps=8")
    before = rates(run)
    trained(micro, run, "--stages.two.lr=2e-3", "--stages.two.steps=8", "--accept-changes")
    assert {step: rate for step, rate in rates(run).items() if step <= 4} == before
    assert {s: r for s, r in rates(run).items() if s > 4} == {s: r for s, r in rates(other).items() if s > 4}


def test_more_steps_behind_a_finished_run(
    micro: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steady = ["--stages.two.warmup_ratio=0", "--stages.two.min_lr_ratio=1"]
    run = trained(micro, tmp_path / "run", *steady)
    before = losses(run)
    capsys.readouterr()
    trained(micro, run, *steady, "--stages.two.steps=7")
    assert "stages.two.steps: was 4, is 7" in capsys.readouterr().out, "a rate that does not decay: nothing is asked"
    after = losses(run)
    assert len(after) == 9
    assert {step: after[step] for step in before} == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--stages.one.lr=1e-4"], ["cannot be changed any more", "stages.one.lr: was 0.001, is 0.0001"]),
        (["--stages.one.steps=1"], ["cannot be changed any more", "stages.one.steps: was 2, is 1"]),
        (["--stages.one.mixture={image: 1}"], ["cannot be changed any more", "stages.one.mixture.image"]),
        (["--stages.two.steps=1", THREE],
         ["stages.two.steps: was 4, is 1, and 2 of its steps are done"]),
        (["--data.seed=9"], ["seed: was 3, is 9"]),
        (["--model.optimizer=muon"], ["cannot be changed any more", "model.optimizer: was adamw, is muon"]),
    ],
)  # fmt: skip
def test_what_is_over_is_refused_whatever_is_accepted(
    micro: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str], said: list[str]
) -> None:
    run = stands_at(4, finished, tmp_path / "run")
    capsys.readouterr()
    for more in ([], ["--accept-changes"]):
        assert main(["run", str(micro), *NO_END, f"--run.dir={run}", *changes, *more]) == 2
        error = capsys.readouterr().err
        assert all(part in error for part in said), error
    assert len(losses(run)) == 4


def test_going_back_by_hand_asks_against_the_recipe_of_that_step(micro: Path, finished: Path, tmp_path: Path) -> None:
    run = stands_at(4, finished, tmp_path / "run")
    changed = "--stages.two.lr=2e-3"
    trained(micro, run, changed, "--accept-changes")
    forget(run, 4, 5, 6)
    assert main(["run", str(micro), *NO_END, EVERY_STEP, f"--run.dir={run}", changed]) == 2, "step 3 is of the first"
    trained(micro, run)
    former = [file.name for file in (run / "recipes").iterdir()]
    assert former == ["until-00000003.yaml"], "it names another folder; what was to end behind step 3 has never been"
    assert losses(run) == losses(finished)


def test_a_branch_goes_on_behind_the_step_and_leaves_the_other_run_alone(
    micro: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished
    before = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    checkpoint = run / "checkpoints" / "step-00000003"
    capsys.readouterr()
    same = trained(micro, tmp_path / "same", f"--from={checkpoint}")
    assert f"branches off {checkpoint} behind step 3" in capsys.readouterr().out
    assert losses(same) == {step: loss for step, loss in losses(run).items() if step > 3}, "the same to the bit"
    assert yaml.safe_load((same / "recipe.yaml").read_text())["run"]["begins_from"] == str(checkpoint)
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == before
    other = trained(
        micro, tmp_path / "other", "--from", str(checkpoint), "--stages.two.lr=2e-3", "--trainer.max_steps=4"
    )
    assert "stages.two.lr: was 0.001, is 0.002" in (said := capsys.readouterr().out), said
    trained(micro, other, "--from", str(checkpoint), "--stages.two.lr=2e-3")
    assert "going on from" in capsys.readouterr().out, "behind its own checkpoint: it has one"
    assert sorted(losses(other)) == [4, 5, 6]
    assert losses(other)[4] == losses(run)[4], "the loss of a step is that before its update"
    assert losses(other)[5] != losses(run)[5]


def test_a_branch_has_a_best_of_its_own(micro: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saver = f"{{class_path: {SAVER}, init_args: {{every_n_steps: 1, keep_last: 1, keep_best: {{train_loss: max}}}}}}"
    line = ["run", str(micro), *NO_END, f"--trainer.callbacks+={saver}"]
    run, branch = tmp_path / "run", tmp_path / "branch"
    assert main([*line, "--trainer.max_steps=3"]) == 0
    before = losses(run)
    best = max(before, key=before.__getitem__)
    assert (run / "checkpoints" / f"step-{best:08d}").is_dir()
    shutil.rmtree(run / "checkpoints" / "step-00000002")
    caplog.clear()
    assert main([*line, f"--run.dir={branch}", f"--from={run}"]) == 0
    assert f"best train_loss: {before[best]:.4f} after step {best} has no checkpoint here" in caplog.text
    own = losses(branch)
    assert max(own.values()) < before[best], "else nothing was asked"
    there = {path.name for path in (branch / "checkpoints").iterdir()}
    assert f"step-{max(own, key=own.__getitem__):08d}" in there
    assert "whose save failed" not in caplog.text


def test_stages_of_other_names_begin_at_step_0_with_weights_and_moments(
    micro: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished
    new = {"steps": 3, "context": 192, "packs_per_step": 2, "mixture": {"text": 1}, "lr": 1e-12}
    line = ["--stages.one=null", "--stages.two=null", f"--stages.fresh={new}".replace("'", "")]
    capsys.readouterr()
    fresh = trained(micro, tmp_path / "fresh", "--from", str(run), *line)
    assert (
        f"begins at its step 0 with weights and moments of {run}/checkpoints/step-00000006" in capsys.readouterr().out
    )
    assert sorted(losses(fresh)) == [1, 2, 3]
    old, now = weights(run / "checkpoints" / "step-00000006"), weights(fresh / "checkpoints" / "step-00000003")
    assert all(torch.allclose(x, now[name], atol=1e-6) for name, x in old.items()), "a rate of nearly nothing"
    scratch = trained(micro, tmp_path / "scratch", *line)
    assert losses(fresh)[1] < losses(scratch)[1]
    (file,) = (fresh / "checkpoints" / "step-00000003").glob("rank-*.safetensors")
    steps = {int(x) for name, x in load_file(file).items() if name.startswith("optimizer/") and name.endswith("/step")}
    assert max(steps) == 4 + 2 + 3, "moments are those of the run before"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (["--from=nowhere"], ["--from: nowhere: no committed checkpoint"]),
        (["--from={run}"], ["nothing is left to do behind step 6 of 6", "names of their own"]),
        (["--from={run}", "--stages.two=null", THREE],
         ["trained there were the stages one, two", "this one has one, three"]),
        (["--from={run}/checkpoints/step-00000003", "--stages.one.lr=1"], ["over cannot be changed", "stages.one.lr"]),
        (["--from={run}/checkpoints/step-00000003", "--data.seed=9"], ["seed: was 3, is 9"]),
    ],
)  # fmt: skip
def test_a_branch_that_cannot_be_is_refused(
    micro: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str], said: list[str]
) -> None:
    run = finished
    capsys.readouterr()
    filled = [argument.replace("{run}", str(run)) for argument in line]
    assert main(["run", str(micro), *NO_END, f"--run.dir={tmp_path / 'branch'}", *filled]) == 2
    error = capsys.readouterr().err
    assert all(part in error for part in said), error
    assert not (tmp_path / "branch").exists()
