"""Saves of trainings: beside the training to the same bits, never of numbers that are broken, and on full disks."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, seed_everything

from neo_lightning.checkpoint import commit
from neo_lightning.checkpoint.shards import ShardReader, check_checkpoint
from neo_lightning.cli.finish import left_out
from neo_lightning.cli.notes import Times
from neo_lightning.report.curves import read_curves
from neo_lightning.training.callbacks import CommitCheckpoint, Curriculum, DataPosition, Throughput
from neo_lightning.training.loggers import RunCSVLogger, RunTensorBoardLogger
from neo_lightning.training.module import NonFiniteError
from neo_lightning.training.saving import CheckpointSaveError
from tests.faults.saving import fill, small_disk
from tests.forks import Server
from tests.training.test_restart import fit as fit_from
from tests.training.test_restart import losses
from tests.training.tiny import TinyData, module, stages, trainer


def fit(folder: Path, *own: Callback, saver: CommitCheckpoint, resume: Path | None = None, **options: Any) -> Any:
    """A training with these callbacks, in this process; returns the trainer."""
    seed_everything(1, verbose=False)
    run = stages()
    callbacks = [Curriculum(print_table=False), DataPosition(), *own, saver]
    fitter = trainer(folder, callbacks=callbacks, **options)
    fitter.fit(module(run, stop_after_skips=4), datamodule=TinyData(run), ckpt_path=resume)
    return fitter


def steps_in(folder: Path) -> list[int]:
    return [commit.step_of(path) for path in commit.committed(folder / "checkpoints")]


class InFlight(Callback):
    """After how many steps a save was in flight, when the step began."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.strategy.saves.in_flight:
            self.seen.append(trainer.global_step)


def test_point_19_beside_the_training_to_the_same_bits(tmp_path: Path) -> None:
    watch, other = InFlight(), InFlight()
    fit(tmp_path / "a", watch, saver=CommitCheckpoint(every_n_steps=3, keep_last=0))
    fit(tmp_path / "b", other, saver=CommitCheckpoint(every_n_steps=3, keep_last=0, asynchronous=False))
    assert {3, 6, 9} <= set(watch.seen), "steps are trained while a save is on its way"
    assert other.seen == []
    assert steps_in(tmp_path / "a") == steps_in(tmp_path / "b") == [3, 4, 6, 9, 12]
    for path in commit.committed(tmp_path / "a" / "checkpoints"):
        check_checkpoint(path)
        for file in path.iterdir():
            same = tmp_path / "b" / "checkpoints" / path.name / file.name
            assert file.read_bytes() == same.read_bytes(), f"{path.name}/{file.name}"


class Breaks(Callback):
    """Puts a number into a weight, or into a moment of AdamW, after a step."""

    def __init__(self, step: int, *, moment: bool) -> None:
        self.step, self.moment = step, moment

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            optimizer = trainer.optimizers[0]
            weight = next(p for p in reversed(list(pl_module.model.parameters())) if optimizer.state.get(p))
            (optimizer.state[weight]["exp_avg_sq"] if self.moment else weight.detach()).view(-1)[0] = torch.inf


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("moment", [True, False])
def test_point_12_no_checkpoint_of_broken_numbers_and_the_good_ones_stay(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, moment: bool, asynchronous: bool
) -> None:
    saver = CommitCheckpoint(every_n_steps=2, keep_last=1, keep_stage_ends=False, asynchronous=asynchronous)
    try:
        fit(tmp_path, Breaks(6, moment=moment), saver=saver, steps=9)
    except NonFiniteError:
        assert not moment
    assert steps_in(tmp_path) == [4], "every later one held an infinity"
    check_checkpoint(commit.latest(tmp_path / "checkpoints"))  # type: ignore[arg-type]
    said = [str(warning.message) for warning in recwarn]
    assert any("step-00000006 is not worth keeping" in text and "not finite" in text for text in said)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.startswith(".")]


class BadStep(Callback):
    """Steps whose loss is not a number."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
        if trainer.global_step in self.steps:
            batch[:] = [replace(row, weights=row.weights * torch.inf) for row in batch]


def test_fault_37_no_checkpoint_of_a_skipped_step_but_of_the_next_good_one(tmp_path: Path) -> None:
    fit(tmp_path, BadStep(5, 6), saver=CommitCheckpoint(every_n_steps=3, keep_last=0), steps=10)
    assert steps_in(tmp_path) == [3, 4, 8, 9, 10], "that of step 6 came two steps later"


def test_fault_37_where_the_last_step_is_skipped_the_run_ends_with_the_one_before_kept(tmp_path: Path) -> None:
    saver = CommitCheckpoint(every_n_steps=3, keep_last=1, keep_stage_ends=False)
    fit(tmp_path, BadStep(11), saver=saver)
    assert steps_in(tmp_path)[-2:] == [9, 12]


def test_fault_35_a_full_disk_keeps_the_old_checkpoint_and_then_ends_the_run(tmp_path: Path) -> None:
    class Fill(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                trainer.strategy.saves.join()
                fill(disk)

    with small_disk(tmp_path / "disk", "1m") as disk:
        saver = CommitCheckpoint(every_n_steps=2, stop_after_failures=3, folder=str(disk / "checkpoints"))
        with pytest.raises(CheckpointSaveError, match=r"3 saves in a row failed.*No space left"):
            fit(tmp_path, Fill(), saver=saver)
        assert steps_in(disk) == [2]
        rest, _ = fit_from(tmp_path, disk / "checkpoints" / "step-00000002", steps=4)
        assert sorted(rest) == [2, 3]


def test_fault_35_a_disk_that_has_room_again(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    class FullFor(Callback):
        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            if trainer.global_step == 3:
                trainer.strategy.saves.join()
                fill(disk)
            elif trainer.global_step == 7:
                trainer.strategy.saves.join()
                (disk / "full").unlink()

    with small_disk(tmp_path / "disk", "1m") as disk:
        saver = CommitCheckpoint(every_n_steps=2, keep_last=2, folder=str(disk / "checkpoints"))
        fit(tmp_path, FullFor(), saver=saver)
        assert steps_in(disk) == [10, 12]
    assert any("cannot prepare the checkpoint" in str(w.message) or "cannot write" in str(w.message) for w in recwarn)


def test_point_09_a_full_disk_for_logs_ends_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Logs(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
            if trainer.global_step == 4:
                fill(disk)
            elif trainer.global_step == 9:
                (disk / "full").unlink()
            wide = {f"{trainer.global_step % 2}/{i}": i / 7 for i in range(400)}  # more than is left of a page
            trainer.loggers[0].log_metrics(wide, step=trainer.global_step + 1)
            info = replace(batch[0].info, tombstones=((f"x/{trainer.global_step}", "bad" * 999),))
            batch[0] = replace(batch[0], info=info)

    with small_disk(tmp_path / "disk", "2m") as disk:
        logs = [RunCSVLogger(str(disk), flush_every=1), RunTensorBoardLogger(str(disk))]
        saver = CommitCheckpoint(every_n_steps=6, folder=str(tmp_path / "checkpoints"))
        fit(disk, Throughput(), Logs(), saver=saver, logger=logs)
        said = capfd.readouterr().err
        for name in ("metrics.csv", "skipped.jsonl", "tensorboard", "starts.json"):
            about = [line for line in said.splitlines() if line.startswith("warning: ") and f"{name} " in line]
            assert len(about) == 2, f"{name}: {about}\n{said}"
            assert "cannot be written (No space left" in about[0]
            assert "is written again" in about[1]
        assert "tensorboard is written again; nothing is lost" not in said
        assert read_curves(disk).steps == tuple(range(1, 13)), "lines wait until there is room"
        assert [key for key, _ in left_out(disk)] == [f"x/{step}" for step in range(12)]
    assert steps_in(tmp_path) == [4, 6, 12]


@pytest.mark.parametrize("left", ["", '{"training": 1', "[]", '{"training": "long"}'])
def test_point_08_what_a_kill_left_of_the_times_ends_no_later_start(tmp_path: Path, left: str) -> None:
    file = tmp_path / "wall_seconds.json"
    file.write_text(left)
    with pytest.warns(UserWarning, match=r"wall_seconds\.json is damaged"):
        Times(file).add("export", 2.0)
    assert Times(file).seconds == {"export": 2.0}, "whole again"


def test_goodput_is_the_part_of_all_starts_in_which_kept_steps_trained(tmp_path: Path) -> None:
    def start(steps: int, resume: Path | None = None) -> tuple[Throughput, dict[str, float]]:
        speed = Throughput()
        saver = CommitCheckpoint(every_n_steps=3, keep_last=0)
        fitter = fit(tmp_path, speed, saver=saver, steps=steps, resume=resume)
        return speed, fitter.lightning_module.metrics

    (tmp_path / "starts.json").write_text(json.dumps({"1000.00": 5000.0}))  # of a start of which nothing was kept
    first, metrics = start(9)
    assert first.trained_s > 0
    assert metrics["goodput"] == pytest.approx(first.trained_s / 5000, rel=0.5)
    assert metrics["goodput"] < first.trained_s / 5000
    assert metrics["save_s"] > 0
    assert len(json.loads((tmp_path / "starts.json").read_text())) == 2
    state = torch.load(tmp_path / "checkpoints" / "step-00000003" / "meta.pt", weights_only=True)
    kept = state["callbacks"]["Throughput"]["trained_s"]
    second, _ = start(4, tmp_path / "checkpoints" / "step-00000003")
    assert kept < second.trained_s < first.trained_s, "steps 3 to 8 of the first start count no more"
    assert len(json.loads((tmp_path / "starts.json").read_text())) == 2, "the same process is one start"
    saver, third = CommitCheckpoint(every_n_steps=3), tmp_path / "checkpoints" / "step-00000003"
    branch = fit(tmp_path / "branch", speed := Throughput(), saver=saver, steps=4, resume=third)
    assert 0 < speed.trained_s < kept, "one step: those before were another run's"
    assert 0 < branch.lightning_module.metrics["goodput"] < 1


def test_a_stall_is_logged(tmp_path: Path) -> None:
    fit(tmp_path, Throughput(), saver=CommitCheckpoint(every_n_steps=3), logger=RunCSVLogger(str(tmp_path)))
    stalls = dict(read_curves(tmp_path).points("save_stall_s"))
    assert stalls[5] > stalls[3], "of the save after step 4 it is known with the next line"
    assert all(0 < value <= 1 for _, value in read_curves(tmp_path).points("goodput"))


@pytest.mark.slow
def test_fault_34_killed_at_any_moment_of_a_save_the_last_committed_one_loads(forks: Server, tmp_path: Path) -> None:
    listed, whole = tmp_path / "listed", tmp_path / "whole"
    status, output = forks.run("tests.faults.saving:dies", str(whole), 0, str(listed))
    assert status == 0, output
    seen = losses(output.splitlines(), "run")
    changes = listed.read_text().splitlines()
    moments = [number for number, change in enumerate(changes, 1) if "step-00000004" in change]
    kinds = [changes[number - 1] for number in moments]
    assert [kind.split()[0] for kind in kinds] == ["os.mkdir", "open", "open", "os.rename"], kinds
    for moment in (*moments, moments[-1] + 1):
        folder = tmp_path / str(moment)
        status, output = forks.run("tests.faults.saving:dies", str(folder), moment)
        assert status == -signal.SIGKILL, output
        last = commit.latest(folder / "checkpoints")
        assert last is not None
        assert commit.step_of(last) == (4 if moment > moments[-1] else 2)
        check_checkpoint(last)
        status, output = forks.run("tests.faults.saving:dies", str(folder), 0)
        assert status == 0, output
        rest = losses(output.splitlines(), "run")
        assert rest == {step: loss for step, loss in seen.items() if step >= commit.step_of(last)}


@pytest.mark.slow
def test_fault_35_what_fails_on_one_rank_fails_on_all_and_both_go_on(forks: Server, tmp_path: Path) -> None:
    """Rank 1 cannot write the save after step 2, and has a weight that is not finite in that after step 4."""
    status, output = forks.run("tests.faults.saving:two_that_fail", str(tmp_path), ranks=2)
    assert status == 0, output
    assert steps_in(tmp_path) == [6, 8, 9]
    assert "cannot write the checkpoint" in output
    assert "rank 1: OSError" in output
    assert "step-00000004 is not worth keeping: rank 1: weights/" in output
    for path in commit.committed(tmp_path / "checkpoints"):
        check_checkpoint(path)
        assert ShardReader(path).has_checksums
