"""Arguments of the trainer that meet: each still does what `cli.trainer_keys` says of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import SimpleProfiler

from neo_lightning.checkpoint.commit import committed, latest
from neo_lightning.cli.errors import UserError
from neo_lightning.training.callbacks import CommitCheckpoint
from tests.cli.test_trainer_keys import Run


def steps_saved(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in committed(folder / "checkpoints")]


def test_a_trial_takes_the_place_of_every_limit(tmp_path: Path) -> None:
    limits = {"limit_val_batches": 2, "overfit_batches": 2, "val_check_interval": 1, "max_steps": 9}
    run = Run(tmp_path, fast_dev_run=3, max_time=timedelta(0), **limits).fit()
    assert len(run.losses.steps) in (1, 3), "the clock counts in a trial as well"
    assert isinstance(run.trainer.logger, DummyLogger)
    assert list(tmp_path.iterdir()) == []


def test_overfit_batches_limits_the_validation_itself(tmp_path: Path) -> None:
    for key in ("limit_val_batches", "limit_train_batches"):
        with pytest.raises(UserError, match=rf"trainer\.overfit_batches: 2 .*{key} would have no effect"):
            Run(tmp_path, overfit_batches=2, **{key: 1})
    run = Run(tmp_path, overfit_batches=2, max_steps=4).fit()
    assert len(run.losses.steps) == 4
    assert [step for step, _ in run.losses.validations] == [2, 4], "an epoch is what it makes of the stream"
    assert run.losses.rows == 4


def test_whichever_of_max_time_and_max_steps_comes_first(tmp_path: Path) -> None:
    for folder, limit, interrupted, done in (("time", timedelta(0), True, 1), ("steps", timedelta(hours=9), False, 2)):
        run = Run(tmp_path / folder, max_time=limit, max_steps=2).fit()
        saver = next(c for c in run.trainer.callbacks if isinstance(c, CommitCheckpoint))
        assert (len(run.losses.steps), saver.interrupted) == (done, interrupted)
        assert steps_saved(tmp_path / folder) == [done]
    both = Run(tmp_path / "time", max_time=timedelta(0), max_steps=2).fit(latest(tmp_path / "time" / "checkpoints"))
    assert len(both.losses.steps) == 1
    assert steps_saved(tmp_path / "time") == [1, 2]


def test_an_early_stop_and_min_steps_with_max_time(tmp_path: Path) -> None:
    run = Run(tmp_path, min_steps=4, max_time=timedelta(0)).fit()
    assert len(run.losses.steps) == 1, "min_steps holds for callbacks; the clock does not wait"


def test_a_profiler_without_loggers_writes_into_the_runs_folder(tmp_path: Path) -> None:
    run = Run(tmp_path, profiler=SimpleProfiler(filename="own"), logger=False, max_steps=1).fit()
    assert len(run.losses.steps) == 1
    (report,) = tmp_path.glob("*.txt")
    assert "own" in report.name
    assert not (tmp_path / "metrics.csv").exists()


def test_nothing_is_logged_nor_saved_nor_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `barebones` is refused in favour of."""
    with pytest.raises(UserError, match="logger: false, enable_checkpointing: false and enable_progress_bar: false"):
        Run(tmp_path, barebones=True)
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run = Run(tmp_path, **off, max_steps=2).fit()
    assert len(run.losses.steps) == 2
    assert "step 1/12" not in capsys.readouterr().out
    assert {path.name for path in tmp_path.iterdir()} == {"skipped.jsonl", "starts.json"}
