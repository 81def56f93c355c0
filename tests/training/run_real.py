"""A tiny model on real shards: what the tests' processes do.

Each rank writes a line `step index digest` for each packed row that it trained on to `packs-RANK.txt` in the run's
folder, and `step name loss` of validations to `validation-RANK.txt`; rank 0 writes `step loss` to `losses.txt`.
Fillers of ranks that have no row in a step have no index.
"""

from __future__ import annotations

import hashlib
import multiprocessing
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from neo_lightning.checkpoint.commit import latest
from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.model.neo import Neo
from neo_lightning.training.module import NeoModule
from neo_lightning.training.strategy import NeoStrategy
from neo_lightning.types import PackedBatch, PixelBudget, Stage
from tests.training import tiny


def stages() -> dict[str, Stage]:
    """4 steps of 2 rows of text, 5 steps of 5 rows of everything: no whole number of rows for 3 ranks or for 2."""
    small = PixelBudget(min_pixels=1024, max_pixels=4096)
    text = Stage(steps=4, context=128, packs_per_step=2, mixture={"text": 1}, lr=3e-3)
    everything = {"text": 1.0, "image": 2.0, "pairs": 1.0}
    mixed = replace(text, steps=5, context=192, packs_per_step=5, mixture=everything, image=small)
    return {"text": text, "mixed": mixed}


def digest(row: PackedBatch) -> str:
    """Of every tensor of a row and of the names of its samples."""
    assert row.info is not None
    hashed = hashlib.sha256(repr((row.info.index, row.info.keys)).encode())
    for field in fields(row):
        if isinstance(value := getattr(row, field.name), torch.Tensor):
            hashed.update(f"{field.name} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return hashed.hexdigest()


class Record(Callback):
    """Writes what a rank trains on, and the losses."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: list[PackedBatch], index: int) -> None:
        with (Path(trainer.default_root_dir) / f"packs-{trainer.global_rank}.txt").open("a") as file:
            for row in batch:
                if row.info is not None and row.info.index >= 0:
                    file.write(f"{trainer.global_step} {row.info.index} {digest(row)}\n")

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.is_global_zero:
            with (Path(trainer.default_root_dir) / "losses.txt").open("a") as file:
                file.write(f"{pl_module.report.step} {pl_module.report.loss!r}\n")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        with (Path(trainer.default_root_dir) / f"validation-{trainer.global_rank}.txt").open("a") as file:
            for name, loss in sorted(trainer.callback_metrics.items()):
                if name.startswith("val_loss"):
                    file.write(f"{trainer.global_step} {name} {loss.item()!r}\n")


def train(
    *,
    ranks: int,
    data: str,
    folder: str,
    workers: int = 0,
    steps: int = 9,
    resume: bool = False,
    validation: Sequence[str] = (),
    run_stages: dict[str, Stage] | None = None,
    strategy: NeoStrategy | None = None,
    **fields: int,
) -> Neo:
    """Train to step `steps`, from the folder's last checkpoint if `resume`; validate sources after every third step.

    `fields` are others of the network; returns it.
    """
    run_stages = run_stages or stages()
    tokenizer = Tokenizer.load(data)
    config = replace(
        tiny.CONFIG,
        vocab_size=tokenizer.vocab_size,
        image_token_id=tokenizer.context_id,
        image_start_token_id=tokenizer.img_start_id,
        **fields,
    )
    rows = NeoDataModule(f"{data}/m.yaml", run_stages, data, num_workers=workers, lanes=2, validation=[*validation])
    Path(folder).mkdir(parents=True, exist_ok=True)
    trainer = tiny.trainer(
        Path(folder), Record(), steps=steps, devices=ranks, val_check_interval=3, strategy=strategy or NeoStrategy()
    )
    last = latest(Path(folder) / "checkpoints") if resume else None
    net = NeoModule(run_stages, model=config)  # type: ignore[arg-type]
    trainer.fit(net, datamodule=rows, ckpt_path=last)
    assert not multiprocessing.active_children(), "workers outlive the fit"
    assert net.model is not None
    return net.model


def run(ranks: int, jobs: list[dict[str, Any]]) -> None:
    """Runs one after the other; each is the arguments of `train`."""
    torch.set_num_threads(1)
    for job in jobs:
        train(ranks=ranks, **job)
