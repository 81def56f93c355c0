"""Fault 38, points 12 and 13: a loss that spikes is gone back from, by itself or by hand, and its packs are skipped."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from neo_lightning.checkpoint import commit
from neo_lightning.cli.main import main
from neo_lightning.training import rewinds
from neo_lightning.training.callbacks import SpikeGuard
from neo_lightning.training.callbacks.spikes import SpikeError
from tests.checkpoints import contents
from tests.faults.runs import losses, make_data, write_recipe
from tests.forks import Server
from tests.owners import holder

STEPS = 64
GUARD = (
    "--trainer.callbacks+=neo_lightning.training.callbacks.SpikeGuard",
    "--trainer.callbacks.window=16",
    "--trainer.callbacks.patience=1",
)
COMMAND = "tests.faults.runs:command"


def weights(run: Path) -> dict[str, Any]:
    found = contents(run / "checkpoints" / f"step-{STEPS:08d}")
    del found["meta"]  # which knows what was skipped, and why
    return found


def skip(run: Path) -> str:
    return str([list(pair) for pair in rewinds.skips(run)])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, poisoned=2)
    return folder


@pytest.fixture(scope="module")
def spiked(forks: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run with a guard over poisoned shards, and what it printed."""
    folder = tmp_path_factory.mktemp("spiked")
    recipe = write_recipe(folder / "r.yaml", run=folder / "run", data=data, steps=STEPS)
    status, output = forks.run(COMMAND, ["run", str(recipe), *GUARD])
    assert status == 0, output
    return folder / "run", output


@pytest.mark.slow
def test_fault_38_a_poisoned_shard_is_found_listed_rewound_and_skipped(
    forks: Server, data: Path, spiked: tuple[Path, str], tmp_path: Path
) -> None:
    run, output = spiked
    found = rewinds.read(run)
    assert len(found) == output.count(": back to ") == 2, f"one for each poisoned pack, which {output}"
    assert all(rewind.why.startswith("spike: losses ") for rewind in found)
    seen = losses(run)
    assert sorted(seen) == list(range(1, STEPS + 1))
    recipe = write_recipe(tmp_path / "r.yaml", run=tmp_path / "run", data=data, steps=STEPS)
    status, output = forks.run(COMMAND, ["run", str(recipe), f"--data.skip={skip(run)}"])
    assert status == 0, output
    assert losses(tmp_path / "run") == seen
    assert weights(tmp_path / "run") == weights(run), "weights and moments"


@pytest.mark.slow
def test_fault_38_two_ranks_go_back_together(forks: Server, data: Path, tmp_path: Path) -> None:
    """And end as two that had the packs in `data.skip` from the start."""
    recipe = write_recipe(tmp_path / "r.yaml", run=tmp_path / "run", data=data, steps=STEPS)
    line = ["run", str(recipe), "--trainer.devices=2"]
    status, output = forks.run(COMMAND, [*line, *GUARD], ranks=2)
    assert status == 0, output
    found = rewinds.read(tmp_path / "run")
    assert len(found) == output.count(": back to ") > 0, output
    status, output = forks.run(
        COMMAND, [*line, f"--run.dir={tmp_path / 'whole'}", f"--data.skip={skip(tmp_path / 'run')}"], ranks=2
    )
    assert status == 0, output
    assert losses(tmp_path / "whole") == losses(tmp_path / "run")
    assert sorted(losses(tmp_path / "run")) == list(range(1, STEPS + 1))
    assert weights(tmp_path / "whole") == weights(tmp_path / "run")


@pytest.mark.slow
def test_fault_38_one_spike_too_many_ends_the_run(
    forks: Server, data: Path, spiked: tuple[Path, str], tmp_path: Path
) -> None:
    """And a run that goes on after a kill still knows what it skips."""
    run = tmp_path / "run"
    recipe = write_recipe(tmp_path / "r.yaml", run=run, data=data, steps=STEPS)
    first, second = rewinds.read(spiked[0])
    status, output = forks.run(COMMAND, ["run", str(recipe), *GUARD, "--trainer.callbacks.most_rewinds=1"])
    assert status not in (0, 2, 75), output
    assert "The run was rewound 1 times already" in output
    assert rewinds.read(run)[0].skip == first.skip
    last = commit.latest(run / "checkpoints")
    assert last is not None
    assert commit.step_of(last) == second.to, "nothing behind the spike was saved"
    assert main(["rewind", str(run), "--to", str(second.to), "--skip", "{}:{}".format(*second.skip or ())]) == 0
    status, output = forks.run(COMMAND, ["run", str(recipe)])
    assert status == 0, output
    assert losses(run) == losses(spiked[0])
    assert weights(run) == weights(spiked[0])


def feed(guard: SpikeGuard, *losses: float, stage: str = "one") -> list[int]:
    """Steps of a run that go back, by what the guard is shown; it goes back in name only."""
    gone = []

    class Trainer:
        datamodule = SimpleNamespace(pack_at=lambda step: 2 * step)
        global_step = 0

    trainer = Trainer()
    guard._go_back = lambda trainer: (gone.append(trainer.global_step - 1), guard._spike.clear())  # type: ignore
    for loss in losses:
        guard.on_train_batch_start(trainer, None, None, 0)  # type: ignore[arg-type]
        report = SimpleNamespace(step=trainer.global_step, loss=loss, stage=stage, skipped="" if loss < 1e9 else "inf")
        trainer.global_step += 1
        guard.on_train_batch_end(trainer, SimpleNamespace(report=report), None, None, 0)  # type: ignore[arg-type]
    return gone


def test_fault_38_a_spike_lasts_and_noise_does_not() -> None:
    calm = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0, 1.1]
    options = {"k": 10, "window": 16, "patience": 3}
    assert feed(SpikeGuard(**options), *calm, 5, 5, 1, 5, 5, 1) == [], "never three running"
    assert feed(SpikeGuard(**options), *calm, 5, 5, 5, 1) == [10]
    assert feed(SpikeGuard(**options), *calm, 5, math.inf, 5, 5, 1) == [11], "a skipped step is no loss"
    assert feed(SpikeGuard(**options), *calm[:3], 5, 5, 5, 1) == [], "nothing is known yet"
    assert feed(SpikeGuard(**options), *[1.0] * 8, 1.005, 1.005, 1.005) == [], "losses that do not differ"
    guard = SpikeGuard(**options)
    assert feed(guard, *calm) == []
    assert feed(guard, 5, 5, 5, stage="two") == [], "another stage, another loss"
    half = SpikeGuard(**options)
    assert feed(half, *calm, 5, 5) == []
    resumed = SpikeGuard(**options)
    resumed.load_state_dict(json.loads(json.dumps(half.state_dict())))
    assert feed(resumed, 5) == [0], "a checkpoint in the middle of a spike"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with three checkpoints, which are only looked at."""
    import torch

    for step in (4, 8, 12):
        folder = tmp_path / "run" / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        torch.save({"NeoDataModule": {"step": step, "pack": 2 * step}}, folder / "meta.pt")
    return tmp_path / "run"


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_point_13_rewind_by_hand_sets_aside_and_lists(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rewind", str(run), "--to", "4", "--skip", "10:16"]) == 0
    assert names(run) == ["rewound-0-step-00000008", "rewound-0-step-00000012", "step-00000004"]
    (rewind,) = rewinds.read(run)
    assert (rewind.to, rewind.skip, rewind.aside) == (4, (10, 16), ("step-00000008", "step-00000012"))
    assert "goes on from step 4; 2 later checkpoint(s)" in capsys.readouterr().out
    (run / "checkpoints" / "step-00000008").mkdir()
    assert main(["rewind", str(run), "--to", "4"]) == 0
    assert "rewound-1-step-00000008" in names(run), "the same step, set aside again"


def test_point_13_rewind_looks_where_the_runs_recipe_says(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere"
    saver = {"class_path": "neo_lightning.training.callbacks.CommitCheckpoint", "init_args": {"folder": str(elsewhere)}}
    other = ["some.Callback", {"class_path": "some.Other"}]
    (run / "recipe.yaml").write_text(json.dumps({"trainer": {"callbacks": [*other, saver]}}))
    assert main(["rewind", str(run), "--to", "4"]) == 2
    assert "no checkpoint of" in capsys.readouterr().err
    shutil.move(run / "checkpoints", elsewhere)
    assert main(["rewind", str(run), "--to", "4"]) == 0
    assert sorted(path.name for path in elsewhere.glob("step-*")) == ["step-00000004"]
    assert main(["runs", str(tmp_path)]) == 0
    assert "no checkpoint" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "5"], "is of step 5; there are: 4, 8, 12"),
        (["--to", "8", "--skip", "15:20"], "pack 15 was trained on already at step 8, which goes on with pack 16"),
        (["--to", "12"], "nothing to skip"),
    ],
)
def test_point_13_what_cannot_be_rewound_is_refused(
    run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rewind", str(run), *words]) == 2
    assert said in capsys.readouterr().err
    assert names(run) == ["step-00000004", "step-00000008", "step-00000012"]
    assert not (run / rewinds.FILE).exists()


def test_point_13_a_run_that_trains_is_not_rewound(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with holder(run / "run.lock"):
        assert main(["rewind", str(run), "--to", "4"]) == 2
    assert "is in use by" in capsys.readouterr().err
    assert len(names(run)) == 3


def test_point_13_a_kill_in_the_middle_of_a_rewind_is_made_good(run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(run, whole)
    rewinds.go_back(whole, whole / "checkpoints", whole / "checkpoints/step-00000004", skip=(10, 16), why="test")
    lines = (whole / rewinds.FILE).read_bytes().splitlines(keepends=True)
    assert len(lines) == 2
    (run / rewinds.FILE).write_bytes(lines[0])  # killed in front of the first renaming
    shutil.move(run / "checkpoints/step-00000012", run / "checkpoints/rewound-0-step-00000012")  # or behind it
    rewinds.settle(run, run / "checkpoints")
    assert names(run) == names(whole)
    (run / "checkpoints" / "step-00000008").mkdir()  # trained anew
    rewinds.settle(run, run / "checkpoints")
    assert "step-00000008" in names(run)
    (run / rewinds.FILE).write_bytes(lines[0] + lines[1] + b'{"to": 4, "sk')
    assert rewinds.skips(run) == [(10, 16)], "a line that was cut short was never written"
    (run / rewinds.FILE).write_bytes(b"{broken}\n" + lines[0])
    with pytest.raises(ValueError, match=r"rewinds.jsonl, line 1: damaged"):
        rewinds.skips(run)


def test_fault_38_without_a_checkpoint_in_front_the_run_ends(run: Path) -> None:
    guard = SpikeGuard()
    problem, to = guard._list(run, run / "checkpoints", 3, (6, 8), "spike: test")
    assert (problem, to) == (
        "No checkpoint is in front of step 3 (there are: step-00000004, step-00000008, step-00000012)",
        "",
    )
    assert not (run / rewinds.FILE).exists()
    problem, to = guard._list(run, run / "checkpoints", 8, (16, 18), "spike: test")
    assert (problem, Path(to).name) == ("", "step-00000008"), "after eight steps the ninth is about to be done"
    assert issubclass(SpikeError, RuntimeError)
