"""What every run shares, so that no recipe repeats it: the trainer's settings, strategy, callbacks and loggers.

A recipe's `trainer.callbacks` are added to the default ones; one of the same class takes the default's place. Its
`trainer.logger` is added to the TensorBoard and CSV logs in the run's folder; `false` turns all logging off.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger

from ..evaluation.context import Evaluation
from ..training.callbacks import (
    CommitCheckpoint,
    Curriculum,
    DataPosition,
    Evaluating,
    Pulse,
    RunProgress,
    SampleGenerations,
    Throughput,
    TimeLimit,
)
from ..training.loggers import RunCSVLogger, RunTensorBoardLogger
from ..training.stages import total_steps
from ..training.strategy import NeoStrategy
from ..types import Stage
from .environment import share_cores
from .recipe import RunSettings
from .trainer_keys import check_trainer

SETTINGS: dict[str, Any] = {
    "max_epochs": -1,  # the stream of packs has no epochs
    "use_distributed_sampler": False,  # the data module deals packs to ranks
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
    "inference_mode": False,  # sharded parameters that are gathered in inference mode could not train afterwards
    "enable_model_summary": False,  # the table of trained parameters per stage takes its place
}
"""Defaults of the trainer's arguments; a recipe may say otherwise."""


def trainer_settings(
    config: dict[str, Any],
    run: RunSettings,
    stages: Mapping[str, Stage],
    evaluations: Sequence[Evaluation] = (),
    *,
    training: bool,
) -> dict[str, Any]:
    """Fill in the trainer's arguments that follow from the rest of the recipe.

    Args:
        config: `trainer` as parsed, objects instantiated.
        run: the run's folder.
        stages: how many steps there are.
        evaluations: of the recipe; some may be asked while training.
        training: whether it will train; without it nothing is written into the run's folder.

    Raises:
        UserError: an argument that does not work here (`trainer_keys`).
    """
    folder = Path(run.dir)
    check_trainer(config, run_dir=run.dir, total=total_steps(stages))
    if config.get("max_steps") in (None, -1):
        config["max_steps"] = total_steps(stages)
    config["default_root_dir"] = str(folder)
    if config.get("strategy") in (None, "auto"):
        config["strategy"] = NeoStrategy()
    if config.get("accelerator") == "cpu" and str(config.get("devices")).isdecimal():
        share_cores(int(config["devices"]))
    config["logger"] = _loggers(config.get("logger"), folder, training)
    asked = [evaluation for evaluation in evaluations if evaluation.while_training and training]
    config["callbacks"] = _callbacks(config.get("callbacks"), config, asked)
    config["max_time"] = None  # our TimeLimit's
    config["min_epochs"] = 0  # with min_steps Lightning would wait for the end of the endless epoch
    return config


def _loggers(given: Any, folder: Path, training: bool) -> list[Logger] | bool:
    if given is False:
        return False
    own = [given] if isinstance(given, Logger) else [*given] if isinstance(given, Iterable) else []
    return [*([RunCSVLogger(str(folder)), RunTensorBoardLogger(str(folder))] if training else []), *own]


CALLBACKS: tuple[type[Callback], ...] = (
    Pulse,
    Curriculum,
    DataPosition,
    Throughput,
    RunProgress,
    SampleGenerations,
    CommitCheckpoint,
)
"""What every run has, in the order in which the hooks run; checkpoints come last, when all others have their state."""


def _callbacks(given: Any, config: Mapping[str, Any], asked: Sequence[Evaluation]) -> list[Callback]:
    own = [given] if isinstance(given, Callback) else list(given or ())
    unwanted: set[type[Callback]] = {kind for kind in CALLBACKS if any(isinstance(callback, kind) for callback in own)}
    if config.get("enable_progress_bar") is False or any(isinstance(callback, ProgressBar) for callback in own):
        unwanted.add(RunProgress)
    if config.get("enable_checkpointing") is False:
        unwanted.add(CommitCheckpoint)
    if config.get("fast_dev_run"):
        unwanted |= {DataPosition, CommitCheckpoint}
    limit = config.get("max_time")
    wanted = [kind for kind in CALLBACKS if kind not in unwanted]
    pulses = [callback for callback in own if isinstance(callback, Pulse)]
    return [
        *pulses,  # first, as the package's own is
        *[kind() for kind in wanted if kind is not CommitCheckpoint],
        *([] if limit is None else [TimeLimit(limit)]),
        *([Evaluating(asked)] if asked else []),
        *[callback for callback in own if callback not in pulses],
        *[CommitCheckpoint() for kind in wanted if kind is CommitCheckpoint],
    ]
