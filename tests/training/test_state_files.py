"""The files that a run keeps for itself: what a kill left half written does not break, or falsify, the next start."""

from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from neo_lightning.checkpoint.commit import latest
from neo_lightning.cli.finish import left_out
from neo_lightning.report.curves import read_curves
from neo_lightning.training.loggers import RunCSVLogger
from tests.training.tiny import TinyData, module, stages, trainer


def test_a_cut_line_of_the_log_is_no_line(tmp_path: Path) -> None:
    log = RunCSVLogger(str(tmp_path))
    for step in (9, 10, 101):
        log.log_metrics({"loss": 0.5 + step}, step=step)
    log.save()
    text = log.path.read_bytes()
    log.path.write_bytes(text[: text.rindex(b"01,101.5")])  # step 101 has become step 1
    assert read_curves(tmp_path).steps == (9, 10)
    again = RunCSVLogger(str(tmp_path))
    again.log_metrics({"loss": 0.25}, step=50)
    again.save()
    assert read_curves(tmp_path).points("loss") == [(9, 9.5), (10, 10.5), (50, 0.25)]
    assert read_curves(tmp_path).steps == (9, 10, 50)
    back = RunCSVLogger(str(tmp_path))
    back.log_metrics({"loss": 0.5}, step=10)
    back.save()
    assert read_curves(tmp_path).points("loss") == [(9, 9.5), (10, 0.5)], "a run that goes back does its steps again"


@contextmanager
def no_room() -> Iterator[None]:
    """No file grows beyond 2 KB here: what a full disk does to one that is written."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


def test_a_start_on_a_full_disk_logs_no_step_twice(tmp_path: Path) -> None:
    """What earlier starts logged of steps that come again goes as soon as the file can be written."""
    log, step = RunCSVLogger(str(tmp_path)), 500
    for number in range(1, 601):
        log.log_metrics({"loss": 0.5}, step=number)
    log.save()
    again = RunCSVLogger(str(tmp_path))
    with no_room():
        again.log_metrics({"loss": 0.25}, step=step)
        again.save()
        assert read_curves(tmp_path).steps == tuple(range(1, 601)), "nothing is lost while nothing can be written"
    again.log_metrics({"loss": 0.25}, step=step + 1)
    again.finalize("success")
    before = [(number, 0.5) for number in range(1, step)]
    assert read_curves(tmp_path).points("loss") == [*before, (step, 0.25), (step + 1, 0.25)]


def test_a_training_that_goes_back_on_a_full_disk_logs_no_step_twice(tmp_path: Path) -> None:
    log = RunCSVLogger(str(tmp_path))
    for number in range(1, 601):
        log.log_metrics({"loss": 0.5}, step=number)
    log.save()
    with no_room():
        for number in range(601, 611):
            log.log_metrics({"loss": 0.5}, step=number)
        log.finalize("failed")
        log.log_metrics({"loss": 0.25}, step=605)
        log.finalize("failed")
        log.log_metrics({"loss": 0.125}, step=590)
    log.log_metrics({"loss": 0.125}, step=591)
    log.finalize("success")
    assert read_curves(tmp_path).points("loss") == [*((n, 0.5) for n in range(1, 590)), (590, 0.125), (591, 0.125)]


class _Log(Callback):
    """Logs each step, and looks at what is on the disk when a checkpoint is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.on_disk: tuple[int, ...] = ()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        trainer.loggers[0].log_metrics({"loss": pl_module.report.loss}, step=trainer.global_step)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        self.on_disk = read_curves(self.folder).steps


def test_the_log_is_on_the_disk_when_a_checkpoint_is(tmp_path: Path) -> None:
    log, run = _Log(tmp_path), stages()
    fitter = trainer(tmp_path, log, steps=3, logger=RunCSVLogger(str(tmp_path)))
    fitter.fit(module(run), datamodule=TinyData(run))
    assert log.on_disk == (1, 2, 3), "a run that goes on from there does not log them again"


def entry(step: int | None, sample: str) -> str:
    return json.dumps({"step": step, "sample": sample, "reason": "bad"}) + "\n"


def test_lists_of_samples_left_out_survive_a_cut_line_and_ranks_that_are_gone(tmp_path: Path) -> None:
    run = stages()
    trainer(tmp_path, steps=6).fit(module(run), datamodule=TinyData(run))
    own, other = tmp_path / "skipped.jsonl", tmp_path / "skipped.rank1.jsonl"
    own.write_bytes(
        (entry(None, "x/index") + entry(5, "x/five") + entry(6, "x/six")).encode() + b'{"step": 5, "sam\xff'
    )
    other.write_text(entry(2, "x/two") + entry(6, "x/repeated") + '"a line that is no object"\n[1]\n{"sample": 1}\n')
    assert ("x/five", "bad") in left_out(tmp_path), "the report reads what is whole"
    trainer(tmp_path, steps=7).fit(module(run), datamodule=TinyData(run), ckpt_path=latest(tmp_path / "checkpoints"))
    kept = [sample for sample, _ in left_out(tmp_path)]
    assert kept == ["x/index", "x/five", "x/two"], "steps from 6 on are done again, by one rank"
    assert not list(tmp_path.glob(".*")), "nothing half written is left"
