"""Defaults that every run shares, and the user's own classes by dotted path."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import CSVLogger

from neo_lightning.cli.arguments import parse
from neo_lightning.cli.errors import UserError
from neo_lightning.cli.main import main
from neo_lightning.cli.parser import NeoCLI
from neo_lightning.training.callbacks import CommitCheckpoint, Curriculum, DataPosition, RunProgress, Throughput
from neo_lightning.training.loggers import RunCSVLogger, RunTensorBoardLogger
from neo_lightning.training.strategy import NeoStrategy

OWN = '''
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.loggers import CSVLogger

from neo_lightning.training.module import NeoModule
from neo_lightning.types import Stage


class Hello(Callback):
    def __init__(self, greeting: str = "hi") -> None:
        self.greeting = greeting


class Data(LightningDataModule):
    """Has neither stages nor a seed."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = folder


class Module(NeoModule):
    def __init__(self, stages: dict[str, Stage], extra: int = 1, **kwargs) -> None:
        super().__init__(stages, **kwargs)
        self.extra = extra


class Log(CSVLogger):
    def __init__(self, folder: str) -> None:
        super().__init__(folder)
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_own_parts.py").write_text(OWN, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def build(*line: object) -> NeoCLI:
    return NeoCLI(parse([str(part) for part in line]))


def test_what_every_run_has(micro: Path, tmp_path: Path) -> None:
    cli = build(micro)
    kinds = [type(callback) for callback in cli.trainer.callbacks]
    for kind in (Curriculum, DataPosition, Throughput, RunProgress, CommitCheckpoint):
        assert kinds.count(kind) == 1
    assert kinds[-1] is CommitCheckpoint, "it saves when all others have their state"
    assert [type(logger) for logger in cli.trainer.loggers] == [RunCSVLogger, RunTensorBoardLogger]
    assert isinstance(cli.trainer.strategy, NeoStrategy)
    assert cli.trainer.max_steps == 6
    assert cli.trainer.default_root_dir == str(tmp_path / "run")
    assert cli.datamodule.seed == cli.config["seed_everything"] == 3
    assert list(cli.model.stages) == ["one", "two"]


def test_a_recipes_callback_takes_the_place_of_the_default(micro: Path, own: Path) -> None:
    saver = "neo_lightning.training.callbacks.CommitCheckpoint"
    cli = build(
        micro,
        "--trainer.callbacks+=my_own_parts.Hello",
        "--trainer.callbacks.greeting=hello",
        f"--trainer.callbacks+={saver}",
        "--trainer.callbacks.every_n_steps=7",
        f"--trainer.logger={{class_path: my_own_parts.Log, init_args: {{folder: {own}}}}}",
        "--trainer.enable_progress_bar=false",
        "--seed_everything=5",
    )
    (checkpoint,) = [c for c in cli.trainer.callbacks if isinstance(c, CommitCheckpoint)]
    assert checkpoint.every_n_steps == 7
    assert [c.greeting for c in cli.trainer.callbacks if type(c).__name__ == "Hello"] == ["hello"]
    assert not any(isinstance(c, RunProgress) for c in cli.trainer.callbacks)
    assert [isinstance(logger, CSVLogger) for logger in cli.trainer.loggers] == [False, False, True]
    assert cli.datamodule.seed == 5
    assert build(micro, "--trainer.logger=false").trainer.loggers == []


def test_own_data_and_model_by_dotted_path(micro: Path, own: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(
        "data: {class_path: my_own_parts.Data, init_args: {folder: x}}\n"
        "model: {class_path: my_own_parts.Module, init_args: {model: neo_ov_2b, extra: 4}}\n",
        encoding="utf-8",
    )
    cli = build(micro, "--config", more, "--data.folder=y", "--model.clip=2")
    assert isinstance(cli.datamodule, LightningDataModule)
    assert cli.datamodule.folder == "y"
    assert (cli.model.extra, cli.model.clip, list(cli.model.stages)) == (4, 2.0, ["one", "two"])
    more.write_text("data: {class_path: my_own_parts.Hello}", encoding="utf-8")
    with pytest.raises(UserError, match="not a LightningDataModule"):
        build(micro, "--config", more)


def test_a_wrong_value_in_a_file_is_found_there(micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = micro.read_text(encoding="utf-8")
    micro.write_text(text.replace("packs_per_step: 2\n", "packs_per_step: many\n"), encoding="utf-8")
    assert main(["run", str(micro)]) == 2
    line = next(n for n, found in enumerate(micro.read_text().splitlines(), 1) if "packs_per_step: many" in found)
    error = capsys.readouterr().err
    assert f"{micro}, line {line}" in error
    assert "int" in error


def test_two_evaluations_of_one_name_are_refused(micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = "{class_path: neo_lightning.evaluation.SceneEvaluation, init_args: {shards: x}}"
    assert main(["run", str(micro), f"--evaluation=[{one}, {one}]"]) == 2
    assert "'scenes' is there twice" in capsys.readouterr().err
