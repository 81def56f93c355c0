"""From a finished run's checkpoint to a model, an exported folder, answers and a report.

    checkpoints/step-N --restore--> Neo --write_folder--> export/ --load--> Engine --evaluations--> report

Runs in one process after training. The model comes from the committed checkpoint and not from memory: what is
evaluated is then what lies on the disk, and a run killed after its last step needs no training process to finish. The
trade-off: it has to fit one device, in the data type that it is exported in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from neo_lightning.report.run import write_report

from ..answering import Answering, Engine, load, write_adapter_folder, write_folder
from ..checkpoint import commit
from ..checkpoint.adapters import Adapter, base_digest, unwritable
from ..checkpoint.meta import read_meta
from ..checkpoint.shards import ShardReader
from ..evaluation.context import Evaluation, EvaluationContext
from ..model.config import NeoConfig
from ..model.frozen import is_scale, scale_name
from ..model.lora import TRAINED, Lora, add_adapter, merge, term_name
from ..model.neo import Neo
from ..ops.coded import Coded, decode
from ..training.build import network
from ..training.ema import EMA
from .history import checkpoints_of

WEIGHTS = "weights/model."
"""Prefix of the network's tensors in a training checkpoint: the strategy's part, and NeoModule's attribute."""
AVERAGE = "optimizer/0/model.{}/" + EMA
"""Name there of the average of a network's tensor."""


def last_checkpoint(path: Path) -> Path:
    """The checkpoint that a run folder, its `checkpoints` folder, or a checkpoint itself stands for.

    Raises:
        ValueError: there is none.
    """
    if commit.step_of(path) >= 0 and path.is_dir():
        return path
    for folder in (path, checkpoints_of(path)):
        if found := commit.latest(folder):
            return found
    if (path / "config.json").is_file():
        raise ValueError(f"{path} is a model folder already; `neo-lightning model import --model {path}` copies one")
    raise ValueError(
        f"{path}: no committed checkpoint there (expected a run's folder, its checkpoints, or one step-NNNNNNNN); "
        "`lightning run RECIPE` saves one at the end of each stage"
    )


def restore(
    checkpoint: Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    weights: Literal["ema", "raw"] | None = None,
) -> Neo:
    """The network of a training checkpoint, whatever number of ranks wrote it; on `meta` its parameters' shapes alone.

    Args:
        checkpoint: its folder.
        dtype: of the parameters.
        device: where they go.
        weights: the average of the weights, or those of the last step; None takes the average where there is one.

    Raises:
        ValueError: the folder is damaged, or holds tensors of another network (lists them), or no average.
    """
    config, lora = NeoConfig.from_dict(about(checkpoint)["config"]), lora_of(checkpoint)
    model = network(config).to(dtype)
    if lora is not None:  # in float32, so that their sums with the weights are rounded once
        how: dict[str, Any] = {"rank": lora.rank, "scale": lora.scale, "dtype": torch.float32}
        add_adapter(model, TRAINED, lora.modules(config), **how)
    model.to_empty(device=device)
    reader = ShardReader(checkpoint)
    parameters = dict(model.named_parameters())
    stored = {name.removeprefix(WEIGHTS) for name in reader.shapes if name.startswith(WEIGHTS) and not is_scale(name)}
    if stored != set(parameters):
        raise ValueError(
            f"{checkpoint} does not hold this network: missing {sorted(set(parameters) - stored)[:5]}, "
            f"extra {sorted(stored - set(parameters))[:5]}"
        )
    if weights == "ema" and not has_average(reader):
        raise ValueError(f"{checkpoint} holds no average of the weights: it was trained without model.ema")
    if torch.device(device).type != "meta":
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(_learned(reader, name, weights))
    if lora is not None:
        merge(model, TRAINED)
    return model.eval()


def lora_of(checkpoint: Path) -> Lora | None:
    """The low-rank terms that a checkpoint was trained with."""
    noted = about(checkpoint).get("lora")
    return None if noted is None else Lora(**{**noted["options"], "targets": tuple(noted["options"]["targets"])})


def no_adapter(checkpoint: Path) -> str | None:
    """Why a checkpoint that was trained with `model.lora` gives no adapter's folder; None where it does."""
    noted = about(checkpoint)
    return unwritable(NeoConfig.from_dict(noted["config"]), noted["lora"]["whole"])


def export_adapter(
    checkpoint: Path, folder: Path, tokenizer: str | Path, *, weights: Literal["ema", "raw"] | None = None
) -> None:
    """Write what a training with `model.lora` has learned as an adapter's folder, in float32.

    Raises:
        ValueError: the checkpoint is damaged, was trained without model.lora, or has trained what an adapter's file
            cannot hold.
    """
    lora, noted = lora_of(checkpoint), about(checkpoint)
    if lora is None:
        raise ValueError(f"{checkpoint} was trained without model.lora: it has no adapter")
    reader = ShardReader(checkpoint)

    def read(name: str) -> Tensor:
        return _learned(reader, name, weights)

    config = NeoConfig.from_dict(noted["config"])
    modules = lora.modules(config)
    adapter = Adapter(
        rank=lora.rank,
        alpha=lora.alpha,
        rslora=lora.rslora,
        dropout=lora.dropout,
        base=noted["lora"]["base"],
        # a base in few bits is no other base, and does not say of which floats it was made
        digest=None if lora.base_bits else base_digest(lambda name: reader.read(WEIGHTS + name), modules),
        pairs={name: (read(term_name(name, "A")), read(term_name(name, "B"))) for name in modules},
        whole={name: read(name) for name in noted["lora"]["whole"]},
    )
    write_adapter_folder(adapter, config, folder, tokenizer, answering_of(checkpoint))


def _learned(reader: ShardReader, name: str, weights: Literal["ema", "raw"] | None) -> Tensor:
    """A parameter, or its average: what was never trained has none. What was coded is float32 again."""
    average, scale = AVERAGE.format(name), WEIGHTS + scale_name(name)
    value = reader.read(average if average in reader.shapes and weights != "raw" else WEIGHTS + name)
    return decode(Coded(value, reader.read(scale)), torch.float32) if scale in reader.shapes else value


def has_average(reader: ShardReader) -> bool:
    """Whether a checkpoint holds the average of its weights."""
    head, tail = AVERAGE.split("{}")
    return any(name.startswith(head) and name.endswith(tail) for name in reader.shapes)


def export_checkpoint(
    checkpoint: Path,
    folder: Path,
    tokenizer: str | Path,
    *,
    dtype: torch.dtype,
    weights: Literal["ema", "raw"] | None = None,
) -> None:
    """Write a training checkpoint as a model folder in the released layout, with its tokenizer.

    It is asked as in the stage that the checkpoint ended in: of a finished run that is the last one. Which `weights`:
    see `restore`.

    Raises:
        ValueError: see `restore`; or the checkpoint does not say how its model is asked.
    """
    write_folder(restore(checkpoint, dtype=dtype, weights=weights), folder, tokenizer, answering_of(checkpoint))


def answering_of(checkpoint: Path) -> Answering:
    """How the checkpoint's model is asked; one of an earlier version only names its stage, which the recipe has."""
    noted = about(checkpoint)
    if "answering" in noted:
        return Answering.from_dict(noted["answering"])
    from .parser import build_stage

    recipe = checkpoint.parent.parent / "recipe.yaml"
    stages = yaml.safe_load(recipe.read_text(encoding="utf-8"))["stages"] if recipe.is_file() else {}
    if noted["stage"] not in stages:
        raise ValueError(
            f"{checkpoint} does not note the pixel budgets of its stage {noted['stage']!r}, and {recipe} does not have "
            "that stage: put the run's recipe there"
        )
    return Answering.of_stage(build_stage(noted["stage"], stages[noted["stage"]]))


def about(checkpoint: Path) -> dict[str, Any]:
    """What NeoModule noted in a checkpoint."""
    return read_meta(checkpoint)["neo_lightning"]


def evaluate(evaluations: list[Evaluation], context: EvaluationContext) -> dict[str, Any]:
    """Run the evaluations and write report.json and report.html; returns the report."""
    results: dict[str, Mapping[str, Any]] = {}
    for evaluation in evaluations:
        print(f"evaluation: {evaluation.name}", flush=True)
        results[evaluation.name] = evaluation.run(context)
    return write_report(context, results)


def load_export(dtype: torch.dtype, device: torch.device) -> Callable[[Path], Engine]:
    """A function that loads an exported folder again, as `EvaluationContext.load_export` wants it."""

    return partial(load, dtype=dtype, device=device)


def left_out(run_dir: Path) -> list[tuple[str, str]]:
    """(`source/key`, reason) of every sample that the run left out, from its `skipped*.jsonl`."""
    found = []
    for file in sorted(run_dir.glob("skipped*.jsonl")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                found.append((str(entry["sample"]), str(entry["reason"])))
            except (ValueError, TypeError, KeyError):  # a line that a kill cut short
                continue
    return found
