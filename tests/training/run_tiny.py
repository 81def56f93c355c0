"""What the tests' processes do: tiny trainings one after the other, on one process or several.

    python -m tests.training.run_tiny DEVICES '[{"folder": ..., "resume": true, "steps": 12, "stages": [4, 8]}, ...]'

Prints `folder-name step loss` after every step (rank 0). At the end of a job rank 0 writes `final.safetensors` with the
whole weights into the job's folder.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from neo_lightning.answering import Ranks
from neo_lightning.checkpoint.commit import latest
from neo_lightning.model.frozen import hold_in_bits, is_scale
from neo_lightning.model.generate import generate
from neo_lightning.model.lora import Lora
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.training.build import network
from neo_lightning.training.strategy import NeoStrategy
from tests.training import tiny


class DiesInSecondSave(Callback):
    """Ends the process when the second checkpoint's tensors are written and the rest is not."""

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: Any) -> None:
        if trainer.global_step > 3:
            torch.save = lambda *args: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]


class Tell(Callback):
    """Prints each step's loss, exactly."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.is_global_zero:
            print(f"{self.name} {pl_module.report.step} {pl_module.report.loss!r}", flush=True)


def whole_weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All parameters, gathered."""
    weights = {name: p.detach() for name, p in model.named_parameters()}
    return {name: (p.full_tensor() if isinstance(p, DTensor) else p).clone() for name, p in weights.items()}


def plain(weights: dict[str, torch.Tensor], lora: Lora | None = None) -> Neo:
    """The whole model on this rank."""
    model = network(tiny.CONFIG, lora).to_empty(device="cpu")
    if lora and lora.base_bits:
        hold_in_bits(model, [name.removesuffix("_scale") for name in weights if is_scale(name)], lora.base_bits)
    model.load_state_dict(weights)
    return model


def answer(model: Neo) -> list[list[int]]:
    """What a model, sharded or not, says to a prompt with an image and one without."""
    visual = torch.tensor([False, False, True, True, False])
    ids = torch.tensor([5, 6, tiny.CONFIG.image_token_id, tiny.CONFIG.image_token_id, 7])
    patches = tiny.make_row(1).patches
    with_image = Prompt(input_ids=ids, visual=visual, grids=torch.tensor([[1, 2]]), patches=patches)
    bare = Prompt(input_ids=ids[:2], visual=visual[:2], grids=torch.empty(0, 2).int(), patches=patches[:0])
    return generate(model, [with_image, bare], max_new_tokens=6)


def ask_together(model: Neo, whole: Neo, ranks: Ranks) -> None:
    """Five questions dealt to the ranks, whose answers end after different numbers of tokens, as one process says."""
    ids = [torch.arange(3, 4 + length) for length in range(5)]
    none = {"grids": torch.empty(0, 2).int(), "patches": tiny.make_row(1).patches[:0]}
    prompts = [Prompt(input_ids=row, visual=torch.zeros(len(row), dtype=torch.bool), **none) for row in ids]
    free = generate(whole, prompts, max_new_tokens=12)
    ends = {answer[2 + place] for place, answer in enumerate(free)}
    alone = generate(whole, prompts, max_new_tokens=12, stop_ids=ends)
    assert len({len(answer) for answer in alone}) > 1, "all answers have the same length: nothing to agree about"
    mine = ranks.share(prompts)
    said = generate(model, mine, max_new_tokens=12, stop_ids=ends, at_once=2, all_ended=ranks.all_ended)
    assert said == alone[ranks.rank :: ranks.count], f"rank {ranks.rank} of {ranks.count}: {said} and alone {alone}"


def train(devices: int, job: dict[str, Any]) -> None:
    """One training."""
    folder = Path(job["folder"])
    scaled = {"lr_scale": job.get("lr_scale", {})}
    run_stages = {name: replace(stage, **scaled) for name, stage in tiny.stages(*job.get("stages", (4, 8))).items()}
    built = job.get("module", {})
    if "lora" in built:
        built["lora"] = Lora(**built["lora"])
        run_stages = {name: replace(stage, trains=tuple(job["trains"])) for name, stage in run_stages.items()}
    module = tiny.module(run_stages, **built)
    data = tiny.TinyData(run_stages, num_workers=job.get("workers", 0))
    options = {"strategy": NeoStrategy(shard_size=job.get("shard_size")), **job.get("trainer", {})}
    watch = [Tell(folder.name), *([DiesInSecondSave()] if job.get("dies_in_second_save") else [])]
    trainer = tiny.trainer(folder, *watch, steps=job.get("steps", 12), devices=devices, **options)
    resume = latest(folder / "checkpoints") if job.get("resume") else job.get("checkpoint")
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    weights = whole_weights(module.model)
    answers = [answer(model) for model in (module.model, plain(weights, built.get("lora")))]
    assert answers[0] == answers[1], f"the sharded model answers {answers[0]}, the whole one {answers[1]}"
    if job.get("asks"):
        ask_together(module.model, plain(weights), Ranks(rank=trainer.global_rank, count=trainer.world_size))
    if trainer.is_global_zero:
        save_file(weights, folder / "final.safetensors")
        print(f"{folder.name} done {trainer.global_step} {int(trainer.callbacks[-1].interrupted)}", flush=True)


def run(devices: int, jobs: list[dict[str, Any]]) -> None:
    """All trainings."""
    torch.set_num_threads(1)
    for job in jobs:
        train(devices, job)


if __name__ == "__main__":
    run(int(sys.argv[1]), json.loads(sys.argv[2]))
