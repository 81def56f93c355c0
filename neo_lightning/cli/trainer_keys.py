"""Every argument of Lightning's Trainer, and what becomes of it here: it works, or it is refused with the way out.

In: `trainer` as a recipe has it. Out: nothing, or a `UserError` before anything is built. A run here is a stream of
packed rows without epochs, one `training_step` is one optimiser step, and checkpoints are folders that `NeoStrategy`
writes: what Lightning would do for another kind of run is refused, and never taken without effect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_info
from lightning.pytorch.plugins.environments import ClusterEnvironment

from ..evaluation.context import Evaluation
from ..training.callbacks.evaluating import PREFIX
from ..training.strategy import NeoStrategy
from .errors import UserError

PRECISIONS = (None, "32", 32, "32-true", "bf16", "bf16-mixed")

WORKS: dict[str, str] = {
    "accelerator": "as in Lightning",
    "devices": "as in Lightning; under torchrun or srun the launcher's number holds",
    "num_nodes": "likewise",
    "logger": "added to the TensorBoard and CSV logs of the run's folder; false turns all logging off",
    "callbacks": "added to the run's own; one of the same class, or a progress bar, takes its place",
    "fast_dev_run": "so many steps of the first stage; nothing is read from the run's folder or left in it",
    "min_steps": "an early stop waits until so many steps are done; a signal does not",
    "max_time": "of one start: then the run saves and ends with status 75, and the same command goes on",
    "limit_val_batches": "as in Lightning: rows of a validation",
    "limit_test_batches": "likewise",
    "limit_predict_batches": "likewise",
    "val_check_interval": "steps (an integer), or a time; a validation wants data.validation",
    "check_val_every_n_epoch": "an epoch is what limit_train_batches or overfit_batches makes of the stream",
    "num_sanity_val_steps": "rows of a validation in front of the first step",
    "enable_checkpointing": "false: nothing is saved, so nothing is exported or evaluated",
    "enable_progress_bar": "as in Lightning",
    "enable_model_summary": "as in Lightning, beside the table of trained parameters",
    "deterministic": "as in Lightning",
    "benchmark": "as in Lightning",
    "profiler": "as in Lightning; its files go into the run's folder",
    "detect_anomaly": "as in Lightning: a NaN in a backward pass ends the run where it arises",
    "enable_autolog_hparams": "false: the recipe is not given to the loggers",
}
"""Argument -> what it does in a run."""

Refusal = Callable[[Any, Mapping[str, Any]], str]
"""From an argument's value and the other arguments to the way out; "" where the value is one that works."""


def _unless(*harmless: Any, way: str) -> Refusal:
    return lambda value, others: "" if value in harmless else way


def _strategy(value: Any, others: Mapping[str, Any]) -> str:
    if value in (None, "auto") or isinstance(value, NeoStrategy):
        return ""
    return (
        "checkpoints, stages and the sum over ranks need neo_lightning.training.strategy.NeoStrategy, which is the "
        "default; with its init_args.shard_size 1 every rank holds a whole copy as in DDP, without it all ranks share "
        "one as in FSDP"
    )


def _precision(value: Any, others: Mapping[str, Any]) -> str:
    if value in PRECISIONS:
        return ""
    return "there are 32-true and bf16-mixed; 8-bit products of the layers are model.fp8: true"


def _stream(value: Any, others: Mapping[str, Any]) -> str:
    if value is None or (isinstance(value, int) and value > 0) or value == 1.0:
        return ""
    return "the stream of packs has no end, so there is no part of it to take: give a number of steps (an epoch's)"


def _overfit(value: Any, others: Mapping[str, Any]) -> str:
    if value == 0:
        return ""
    if isinstance(value, int) and value > 0:
        limits = [key for key in ("limit_train_batches", "limit_val_batches") if others.get(key) not in (None, value)]
        return f"it limits training and validation itself, so {limits[0]} would have no effect" if limits else ""
    return "the stream of packs has no end, so there is no part of it to take: give a number of steps"


def _plugins(value: Any, others: Mapping[str, Any]) -> str:
    given = value if isinstance(value, list) else [] if value is None else [value]
    if all(isinstance(plugin, ClusterEnvironment) for plugin in given):
        return ""
    return (
        "only a ClusterEnvironment can be given; precision is trainer.precision, and checkpoints are folders that the "
        "strategy writes (strategy: a subclass of NeoStrategy)"
    )


def _log_every(value: Any, others: Mapping[str, Any]) -> str:
    return "" if value is None or value > 0 else "logger: false turns logging off"


_EPOCHS = "the stream of packs has no epochs: a stage's length is stages.NAME.steps (`data plan` shows its epochs)"

REFUSED: dict[str, Refusal] = {
    "strategy": _strategy,
    "precision": _precision,
    "max_epochs": _unless(None, -1, way=_EPOCHS),
    "min_epochs": _unless(None, 0, way=_EPOCHS),
    "limit_train_batches": _stream,
    "overfit_batches": _overfit,
    "log_every_n_steps": _log_every,
    "accumulate_grad_batches": _unless(
        None,
        1,
        way="stages.NAME.packs_per_step says how many packed rows a step has; what is more than one a rank is "
        "accumulated",
    ),
    "gradient_clip_val": _unless(
        None, way="the largest norm of the gradient is model.clip (1.0 by default; 0 does not clip)"
    ),
    "gradient_clip_algorithm": _unless(None, way="the gradient is clipped by its norm: model.clip"),
    "inference_mode": _unless(
        None, False, way="parameters that are gathered in inference mode could not train afterwards: leave it false"
    ),
    "use_distributed_sampler": _unless(
        None, False, way="the data module deals each step's rows to the ranks itself: leave it false"
    ),
    "barebones": _unless(
        None, False, way="say logger: false, enable_checkpointing: false and enable_progress_bar: false"
    ),
    "plugins": _plugins,
    "sync_batchnorm": _unless(None, False, way="the model has no batch norm, there is nothing to synchronise"),
    "reload_dataloaders_every_n_epochs": _unless(
        None, 0, way="the stream of packs has no epochs; its place is a function of the step alone"
    ),
    "model_registry": _unless(
        None, way="checkpoints stay in the run's folder; `neo-lightning model export` makes a folder to upload"
    ),
}
"""Argument -> which of its values are refused, with the way out."""


def check_trainer(trainer: Mapping[str, Any], *, run_dir: str, total: int) -> None:
    """Refuse what would have no effect, or another than it has elsewhere.

    Args:
        trainer: the arguments, objects instantiated.
        run_dir: the run's folder.
        total: steps of all stages.

    Raises:
        UserError: naming the key and what does the same here.
    """
    for key, refusal in REFUSED.items():
        if key in trainer and (way := refusal(trainer[key], trainer)):
            raise UserError(f"trainer.{key}: {_shown(trainer[key])} does not work here: {way}")
    steps, folder = trainer.get("max_steps"), trainer.get("default_root_dir")
    if isinstance(steps, int) and not (steps == -1 or 0 < steps <= total):
        raise UserError(
            f"trainer.max_steps: {steps}, but the stages have {total} steps: a run's length is stages.NAME.steps, and "
            "max_steps can only end it earlier"
        )
    if folder is not None and str(folder) != run_dir:
        raise UserError(f"trainer.default_root_dir: {folder} is not the run's folder; say run.dir={folder}")


def check_validation(
    trainer: Mapping[str, Any], sources: Sequence[str], evaluations: Sequence[Evaluation] = ()
) -> None:
    """Refuse what waits for a validation or a score that never comes; say where held-out sources are never read.

    Args:
        trainer: the arguments of a training, objects instantiated.
        sources: `data.validation`.
        evaluations: of the recipe.

    Raises:
        UserError: naming the key and what is missing.
    """
    interval, callbacks = trainer.get("val_check_interval"), trainer.get("callbacks") or []
    if interval is not None and not sources:
        raise UserError(
            f"trainer.val_check_interval: {interval} validates nothing: name held-out sources of the manifest in "
            "data.validation (`data import --hold-out 5%` writes such)"
        )
    epochs = any(trainer.get(key) for key in ("limit_train_batches", "overfit_batches", "fast_dev_run"))
    validates = bool(sources) and (interval is not None or epochs)
    for evaluation in evaluations:
        if evaluation.while_training and type(evaluation).scores is Evaluation.scores:
            raise UserError(
                f"evaluation: {type(evaluation).__name__} cannot be asked while training, as it does not define "
                "`scores`: leave out every_n_steps and `at`, or define it (neo_lightning/evaluation/context.py)"
            )
    asked = {f"{PREFIX}{evaluation.name}" for evaluation in evaluations if evaluation.while_training}
    for callback in callbacks if isinstance(callbacks, Iterable) else [callbacks]:
        for monitor in (str(getattr(callback, "monitor", "")), *getattr(callback, "keep_best", ())):
            if monitor.startswith(PREFIX) and "/".join(monitor.split("/")[:2]) not in asked:
                raise UserError(
                    f"trainer.callbacks: {type(callback).__name__} watches {monitor}, and no evaluation gives that "
                    f"while training: there is {', '.join(asked) or 'none'}; give an entry of `evaluation` its "
                    "every_n_steps"
                )
            if monitor.startswith("val_loss") and not validates:
                raise UserError(
                    f"trainer.callbacks: {type(callback).__name__} monitors {monitor}, and nothing validates: "
                    "name held-out sources in data.validation, and the steps between in trainer.val_check_interval"
                )
    if sources and not validates:
        rank_zero_info(
            f"data.validation: {', '.join(sources)} are not read while training; trainer.val_check_interval=STEPS does"
        )


CHECKED_WITH_THE_RUN = ("max_steps", "default_root_dir")
"""Arguments of which `check_trainer` decides with other keys of the recipe."""


def _shown(value: Any) -> str:
    return type(value).__name__ if hasattr(value, "__dict__") else repr(value)
