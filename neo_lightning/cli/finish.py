"""From a finished run's checkpoint to a model, an exported folder, answers and a report.

    checkpoints/step-N --restore--> Neo --export_model--> export/ --load_model--> Neo again --evaluations--> report

Runs in one process after training. The model comes from the committed checkpoint and not from memory: what is
evaluated is then what lies on the disk, and a run killed after its last step needs no training process to finish. The
trade-off: it has to fit one device, in the data type that it is exported in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.report.run import write_report

from ..checkpoint import commit
from ..checkpoint.export import export_model
from ..checkpoint.load import load_model
from ..checkpoint.shards import ShardReader
from ..evaluation.context import Evaluation, EvaluationContext
from ..model.config import NeoConfig
from ..model.neo import Neo

WEIGHTS = "weights/model."
"""Prefix of the network's tensors in a training checkpoint: the strategy's part, and NeoModule's attribute."""


def last_checkpoint(path: Path) -> Path:
    """The checkpoint that a run folder, its `checkpoints` folder, or a checkpoint itself stands for.

    Raises:
        ValueError: there is none.
    """
    if commit.step_of(path) >= 0 and path.is_dir():
        return path
    for folder in (path, path / "checkpoints"):
        if found := commit.latest(folder):
            return found
    raise ValueError(f"{path}: no committed checkpoint there (expected a run folder, or step-NNNNNNNN)")


def restore(checkpoint: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Neo:
    """The network of a training checkpoint, whatever number of ranks wrote it; on `meta` its parameters' shapes alone.

    Raises:
        ValueError: the folder is damaged, or holds tensors of another network; lists them.
    """
    meta = torch.load(checkpoint / "meta.pt", map_location="cpu", weights_only=True)
    config = NeoConfig.from_dict(meta["neo_lightning"]["config"])
    with torch.device("meta"):
        model = Neo(config).to(dtype)
    model.to_empty(device=device)
    reader = ShardReader(checkpoint)
    parameters = dict(model.named_parameters())
    stored = {name.removeprefix(WEIGHTS) for name in reader.shapes if name.startswith(WEIGHTS)}
    if stored != set(parameters):
        raise ValueError(
            f"{checkpoint} does not hold this network: missing {sorted(set(parameters) - stored)[:5]}, "
            f"extra {sorted(stored - set(parameters))[:5]}"
        )
    if torch.device(device).type != "meta":
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(reader.read(WEIGHTS + name))
    return model.eval()


def export_checkpoint(checkpoint: Path, folder: Path, tokenizer: str | Path, *, dtype: torch.dtype) -> None:
    """Write a training checkpoint as a model folder in the released layout, with its tokenizer."""
    model = restore(checkpoint, dtype=dtype)
    export_model(model, model.config, folder, tokenizer_dir=tokenizer)


def evaluate(evaluations: list[Evaluation], context: EvaluationContext) -> dict[str, Any]:
    """Run the evaluations and write report.json and report.html; returns the report."""
    results: dict[str, Mapping[str, Any]] = {}
    for evaluation in evaluations:
        print(f"evaluation: {evaluation.name}", flush=True)
        results[evaluation.name] = evaluation.run(context)
    return write_report(context, results)


def load_export(dtype: torch.dtype, device: torch.device) -> Any:
    """A function that loads an exported folder again, as `EvaluationContext.load_export` wants it."""

    def load(folder: Path) -> tuple[Neo, Tokenizer]:
        return load_model(folder, dtype=dtype, device=device).eval(), Tokenizer.load(folder)

    return load


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
