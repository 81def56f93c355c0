"""Every argument of Lightning's Trainer: what it does in a run, or how it is refused before the first step."""

from __future__ import annotations

import csv
import inspect
import logging
from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelSummary, TQDMProgressBar
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.profilers import SimpleProfiler
from torch.utils.data import DataLoader

from neo_lightning import stopping
from neo_lightning.checkpoint.commit import committed, latest
from neo_lightning.cli.defaults import SETTINGS, trainer_settings
from neo_lightning.cli.errors import UserError
from neo_lightning.cli.recipe import RunSettings
from neo_lightning.cli.trainer_keys import CHECKED_WITH_THE_RUN, REFUSED, WORKS, check_trainer
from neo_lightning.training.callbacks import CommitCheckpoint, Pulse, RunProgress
from neo_lightning.training.module import NeoModule
from tests.training.tiny import Steps, TinyData, make_row, module, stages

STEPS = 12


class Stream:
    """As the real loader: each pass begins behind the steps done; no length."""

    def __init__(self, data: TinyData) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        steps = Steps(self.data.run, 0, 1)
        return (steps[step] for step in count(self.data.next_step))


class WithValidation(TinyData):
    """Three rows of two sources to validate, test and score on."""

    validation = ("x", "x/y")

    def train_dataloader(self) -> Any:
        return Stream(self)

    def val_dataloader(self) -> DataLoader:
        rows: Any = [[make_row(seed)] for seed in (100, 101, 102)]
        return DataLoader(rows, batch_size=None, collate_fn=lambda item: item)

    test_dataloader = predict_dataloader = val_dataloader


class Losses(Callback):
    """What was done: each step's loss, and each validation's loss with the steps before it."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.validations: list[tuple[int, float]] = []
        self.rows = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.steps.append(pl_module.report.loss)

    def on_validation_batch_end(self, *args: Any) -> None:
        self.rows += 1

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        loss = trainer.callback_metrics.get("val_loss", torch.tensor(-1.0))
        self.validations.append((trainer.global_step, loss.item()))


class Run:
    """A tiny training with the trainer that a recipe would get."""

    def __init__(self, folder: Path, *callbacks: Callback, training: bool = True, **options: Any) -> None:
        self.losses = Losses()
        given = {**SETTINGS, "accelerator": "cpu", "devices": 1, **options}
        given["callbacks"] = [self.losses, *callbacks]
        run = RunSettings(name="tiny", dir=str(folder))
        settings = trainer_settings(given, run, stages(), training=training)
        self.trainer: Any = Trainer(**settings)
        self.data, self.module = WithValidation(stages()), module()

    def fit(self, resume: Path | None = None) -> Run:
        self.trainer.fit(self.module, datamodule=self.data, ckpt_path=resume)
        return self


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of the run without any argument."""
    losses = Run(tmp_path_factory.mktemp("plain")).fit().losses.steps
    assert len(losses) == STEPS
    return losses


def lines(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_argument_has_a_decision() -> None:
    known = [*WORKS, *REFUSED, *CHECKED_WITH_THE_RUN]
    assert len(known) == len(set(known))
    assert set(inspect.signature(Trainer).parameters) <= set(known)


@pytest.mark.parametrize(
    ("key", "value", "way"),
    [
        ("accumulate_grad_batches", 4, "packs_per_step"),
        ("gradient_clip_val", 1.0, "model.clip"),
        ("gradient_clip_val", 0, "model.clip"),
        ("gradient_clip_algorithm", "value", "model.clip"),
        ("max_epochs", 3, "stages.NAME.steps"),
        ("min_epochs", 1, "stages.NAME.steps"),
        ("max_steps", STEPS + 1, "stages.NAME.steps"),
        ("max_steps", 0, "stages.NAME.steps"),
        ("limit_train_batches", 0.5, "number of steps"),
        ("limit_train_batches", 0, "number of steps"),
        ("overfit_batches", 0.1, "number of steps"),
        ("log_every_n_steps", 0, "logger: false"),
        ("strategy", "ddp", "shard_size 1"),
        ("strategy", "fsdp", "NeoStrategy"),
        ("precision", "16-mixed", "bf16-mixed"),
        ("precision", "bf16-true", "bf16-mixed"),
        ("precision", "transformer-engine", "model.fp8"),
        ("inference_mode", True, "leave it false"),
        ("use_distributed_sampler", True, "deals"),
        ("barebones", True, "enable_checkpointing: false"),
        ("plugins", MixedPrecision("bf16-mixed", "cpu"), "trainer.precision"),
        ("plugins", [LightningEnvironment(), MixedPrecision("bf16-mixed", "cpu")], "trainer.precision"),
        ("sync_batchnorm", True, "no batch norm"),
        ("reload_dataloaders_every_n_epochs", 1, "no epochs"),
        ("model_registry", "mine", "model export"),
        ("default_root_dir", "elsewhere", "run.dir=elsewhere"),
    ],
)
def test_what_would_have_no_effect_is_refused_with_the_way_out(key: str, value: Any, way: str) -> None:
    with pytest.raises(UserError, match=rf"trainer\.{key}") as refused:
        check_trainer({key: value}, run_dir="here", total=STEPS)
    assert way in str(refused.value)


@pytest.mark.parametrize(
    "given",
    [
        {"max_epochs": -1, "max_steps": -1, "precision": "bf16", "strategy": "auto", "plugins": LightningEnvironment()},
        {"max_steps": STEPS, "limit_train_batches": 3, "default_root_dir": "here"},
        {"overfit_batches": 2, "limit_train_batches": None, "limit_val_batches": 2},
        SETTINGS,
        {name: p.default for name, p in inspect.signature(Trainer).parameters.items() if name not in SETTINGS},
    ],
)
def test_what_works_and_what_lightning_has_by_default_is_not_refused(given: dict[str, Any]) -> None:
    check_trainer(given, run_dir="here", total=STEPS)


def test_max_steps_ends_a_run_earlier_and_saves(plain: list[float], tmp_path: Path) -> None:
    assert Run(tmp_path, max_steps=5).fit().losses.steps == plain[:5]
    rest = Run(tmp_path).fit(resume=latest(tmp_path / "checkpoints"))
    assert rest.losses.steps == plain[5:]


def test_max_time_ends_each_start_after_a_step_and_saves(plain: list[float], tmp_path: Path) -> None:
    for done in range(2):  # Lightning's own timer would never let the second start do a step
        run = Run(tmp_path, max_time=timedelta(0)).fit(resume=latest(tmp_path / "checkpoints"))
        assert run.losses.steps == plain[done : done + 1]
        saver = next(c for c in run.trainer.callbacks if isinstance(c, CommitCheckpoint))
        assert saver.interrupted
        assert [path.name for path in committed(tmp_path / "checkpoints")][-1] == f"step-0000000{done + 1}"
    assert Run(tmp_path, max_time="00:12:00:00").fit(latest(tmp_path / "checkpoints")).losses.steps == plain[2:]


def test_max_time_ends_a_run_that_saves_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, max_time={"hours": 0}, enable_checkpointing=False).fit()
    assert len(run.losses.steps) == 1
    assert not (tmp_path / "checkpoints").exists()


def test_limit_train_batches_makes_epochs_of_the_same_stream(plain: list[float], tmp_path: Path) -> None:
    run = Run(tmp_path, limit_train_batches=5).fit()
    assert run.losses.steps == plain
    assert [step for step, _ in run.losses.validations] == [5, 10]
    early = Run(tmp_path / "cut", limit_train_batches=5, max_steps=7).fit()
    rest = Run(tmp_path / "cut", limit_train_batches=5).fit(resume=latest(tmp_path / "cut" / "checkpoints"))
    assert early.losses.steps + rest.losses.steps == plain
    assert rest.losses.validations[-1] == run.losses.validations[-1]


def test_check_val_every_n_epoch_counts_those_epochs(tmp_path: Path) -> None:
    run = Run(tmp_path, limit_train_batches=3, check_val_every_n_epoch=2).fit()
    assert [step for step, _ in run.losses.validations] == [6, 12]


def test_overfit_batches_shows_the_first_steps_again_and_again(plain: list[float], tmp_path: Path) -> None:
    class Rows(Callback):
        def __init__(self) -> None:
            self.first: list[int] = []

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            self.first.append(batch[0].info.index)

    rows = Rows()
    run = Run(tmp_path, rows, overfit_batches=2, max_steps=5).fit()
    assert rows.first == [0, 2, 0, 2, 0]
    assert run.losses.steps[:2] == plain[:2]
    again = Rows()
    Run(tmp_path, again, overfit_batches=2, max_steps=8).fit(resume=latest(tmp_path / "checkpoints"))
    assert again.first == [2, 0, 2], "a resumed run goes on in the middle"


def test_validation_at_steps_by_source_in_the_log_and_on_the_console(
    plain: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path, val_check_interval=4, log_every_n_steps=3).fit()
    assert run.losses.steps == plain, "a validation changes nothing"
    assert [step for step, _ in run.losses.validations] == [4, 8, 12]
    logged = {int(line["step"]): line for line in lines(tmp_path) if line.get("val_loss")}
    assert [(step, float(line["val_loss"])) for step, line in logged.items()] == run.losses.validations
    assert [line["step"] for line in lines(tmp_path)] == ["1", "3", "4", "6", "8", "9", "12"]
    shown = capsys.readouterr().out
    for step, loss in run.losses.validations:
        assert f"validation after step {step}: loss {loss:.4f}, x {loss:.4f}, x/y nan" in shown


def test_limit_val_test_and_predict_batches(tmp_path: Path) -> None:
    assert Run(tmp_path, val_check_interval=6, limit_val_batches=2).fit().losses.rows == 4
    assert Run(tmp_path, val_check_interval=6, limit_val_batches=0).fit().losses.validations == []
    for name in ("test", "predict"):
        run = Run(tmp_path / name, training=False, **{f"limit_{name}_batches": 1})
        getattr(run.trainer, name)(run.module, datamodule=run.data)
        assert run.losses.rows == 1
        assert not (tmp_path / name).exists(), "what only reads writes nothing into the run's folder"


def test_num_sanity_val_steps_come_before_the_first_step_and_are_not_logged(plain: list[float], tmp_path: Path) -> None:
    run = Run(tmp_path, num_sanity_val_steps=2).fit()
    assert run.losses.rows == 2
    assert run.losses.steps == plain
    assert not any(line.get("val_loss") for line in lines(tmp_path))


def test_fast_dev_run_leaves_nothing_behind(plain: list[float], tmp_path: Path) -> None:
    run = Run(tmp_path, fast_dev_run=2).fit()
    assert run.losses.steps == plain[:2]
    assert isinstance(run.trainer.logger, DummyLogger)
    assert list(tmp_path.iterdir()) == []


def test_log_every_n_steps(tmp_path: Path) -> None:
    Run(tmp_path, log_every_n_steps=5).fit()
    assert [line["step"] for line in lines(tmp_path)] == ["1", "4", "5", "10", "12"], "and where a stage ends"


def test_logger_false_and_a_logger_of_ones_own(plain: list[float], tmp_path: Path) -> None:
    class Mine(Logger):
        name, version = "mine", ""

        def __init__(self) -> None:
            self.steps: list[Any] = []

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.steps.append(step)

        def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None: ...

    run = Run(tmp_path / "none", logger=False).fit()
    assert run.losses.steps == plain
    assert not (tmp_path / "none" / "metrics.csv").exists()
    assert not (tmp_path / "none" / "tensorboard").exists()
    mine = Mine()
    Run(tmp_path / "own", logger=mine, log_every_n_steps=6).fit()
    assert mine.steps == [1, 4, 6, 12]
    assert (tmp_path / "own" / "metrics.csv").exists(), "it is added to the run's own"


def test_profiler(tmp_path: Path) -> None:
    profiler = SimpleProfiler(dirpath=str(tmp_path), filename="profile")
    Run(tmp_path, profiler=profiler, max_steps=2).fit()
    (report,) = tmp_path.glob("*profile*.txt")
    assert "training_step" in report.read_text()


def test_a_progress_bar_of_ones_own_takes_ours_place(tmp_path: Path) -> None:
    bar = TQDMProgressBar()
    run = Run(tmp_path, bar, max_steps=2).fit()
    assert run.trainer.progress_bar_callback is bar
    assert not any(isinstance(callback, RunProgress) for callback in run.trainer.callbacks)


def test_enable_progress_bar_and_checkpointing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run(tmp_path, max_steps=2, enable_checkpointing=False).fit()
    assert run.trainer.progress_bar_callback is not None
    assert "[pre_training] step 1/12" in capsys.readouterr().out
    assert not (tmp_path / "checkpoints").exists()
    Run(tmp_path, max_steps=2, enable_progress_bar=False).fit()
    assert "step 1/12" not in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "step-00000002").is_dir()


def test_enable_model_summary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run = Run(tmp_path, max_steps=1, enable_model_summary=True).fit()
    assert any(isinstance(callback, ModelSummary) for callback in run.trainer.callbacks)
    assert not any(isinstance(callback, ModelSummary) for callback in Run(tmp_path).trainer.callbacks)


@pytest.fixture
def _as_before() -> Iterator[None]:
    """The process's settings that a trainer changes."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False
    torch.autograd.set_detect_anomaly(False)


@pytest.mark.usefixtures("_as_before")
def test_deterministic_benchmark_and_detect_anomaly(plain: list[float], tmp_path: Path) -> None:
    run = Run(tmp_path, deterministic=True, benchmark=True).fit()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cudnn.benchmark
    assert run.losses.steps == plain
    for detect in (False, True):
        broken = Run(tmp_path / str(detect), detect_anomaly=detect, max_steps=1)
        broken.module = _Nan(stages(), model=run.module.config)
        if detect:
            with pytest.raises(RuntimeError, match="nan values"):
                broken.fit()
        else:
            assert broken.fit().module.skipped_steps == 1


class _Nan(NeoModule):
    """Its backward pass gives a NaN."""

    def manual_backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        super().manual_backward((loss * 0).sqrt() * 0 + loss, *args, **kwargs)


def test_min_steps_delays_an_early_stop_but_no_signal(tmp_path: Path) -> None:
    stop = EarlyStopping(monitor="lr", mode="max", patience=1, check_on_train_epoch_end=False)
    run = Run(tmp_path / "early", stop, min_steps=9, val_check_interval=1).fit()
    assert len(run.losses.steps) == 9

    class Signal(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step >= 2:
                stopping.ask("a test")

    assert len(Run(tmp_path / "signal", Signal(), min_steps=9).fit().losses.steps) == 3


def test_a_pulse_of_the_users_own_still_comes_in_front_of_all_callbacks(tmp_path: Path) -> None:
    """Else what hangs in one in front of it counts as part of a step, the first of which may take ten minutes."""
    own = Pulse(silence_s=3)
    run = Run(tmp_path, own)
    assert run.trainer.callbacks[0] is own
    assert sum(isinstance(callback, Pulse) for callback in run.trainer.callbacks) == 1
