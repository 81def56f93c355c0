"""What every run shares, so that no recipe repeats it: the trainer's settings, strategy, callbacks and loggers.

A recipe's `trainer.callbacks` are added to the default ones; one of the same class takes the default's place. Its
`trainer.logger` is added to the TensorBoard and CSV logs in the run's folder; `false` turns all logging off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from ..training.callbacks import CommitCheckpoint, Curriculum, DataPosition, RunProgress, SampleGenerations, Throughput
from ..training.loggers import RunCSVLogger
from ..training.stages import total_steps
from ..training.strategy import NeoStrategy
from ..types import Stage
from .environment import share_cores
from .recipe import RunSettings

SETTINGS: dict[str, Any] = {
    "max_epochs": -1,  # the stream of packs has no epochs
    "use_distributed_sampler": False,  # the data module deals packs to ranks
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "inference_mode": False,  # sharded parameters that are gathered in inference mode could not train afterwards
    "enable_model_summary": False,  # the table of trained parameters per stage takes its place
}
"""Defaults of the trainer's arguments; a recipe may say otherwise."""


def trainer_settings(config: dict[str, Any], run: RunSettings, stages: Mapping[str, Stage]) -> dict[str, Any]:
    """Fill in the trainer's arguments that follow from the rest of the recipe.

    Args:
        config: `trainer` as parsed, objects instantiated.
        run: the run's folder.
        stages: how many steps there are.
    """
    folder = Path(run.dir)
    if config.get("max_steps") in (None, -1):
        config["max_steps"] = total_steps(stages)
    config["default_root_dir"] = config.get("default_root_dir") or str(folder)
    if config.get("strategy") in (None, "auto"):
        config["strategy"] = NeoStrategy()
    if config.get("accelerator") == "cpu" and str(config.get("devices")).isdecimal():
        share_cores(int(config["devices"]))
    config["logger"] = _loggers(config.get("logger"), folder)
    config["callbacks"] = _callbacks(config.get("callbacks"), config)
    return config


def _loggers(given: Any, folder: Path) -> list[Logger] | bool:
    if given is False:
        return False
    own = [given] if isinstance(given, Logger) else [*given] if isinstance(given, Iterable) else []
    return [RunCSVLogger(str(folder)), TensorBoardLogger(str(folder), name="tensorboard", version=""), *own]


CALLBACKS: tuple[type[Callback], ...] = (
    Curriculum,
    DataPosition,
    Throughput,
    RunProgress,
    SampleGenerations,
    CommitCheckpoint,
)
"""What every run has, in the order in which the hooks run; checkpoints come last, when all others have their state."""


def _callbacks(given: Any, config: Mapping[str, Any]) -> list[Callback]:
    own = [given] if isinstance(given, Callback) else list(given or ())
    wanted = [
        kind
        for kind in CALLBACKS
        if not any(isinstance(callback, kind) for callback in own)
        and not (kind is RunProgress and config.get("enable_progress_bar") is False)
        and not (kind is CommitCheckpoint and config.get("enable_checkpointing") is False)
    ]
    return [
        *[kind() for kind in wanted if kind is not CommitCheckpoint],
        *own,
        *[CommitCheckpoint() for kind in wanted if kind is CommitCheckpoint],
    ]
