"""A tiny network, hand-made packed rows and a data module over them: everything the training tests need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch.utils.data import DataLoader, Dataset, Sampler

from neo_lightning.data.skipped import Skipped
from neo_lightning.model.config import NeoConfig
from neo_lightning.sequence import positions_and_limits
from neo_lightning.training.callbacks import CommitCheckpoint, Curriculum, DataPosition
from neo_lightning.training.module import NeoModule
from neo_lightning.training.strategy import NeoStrategy
from neo_lightning.types import IGNORE, MODALITIES, PackedBatch, PackInfo, Stage

CONFIG = NeoConfig(
    vocab_size=67,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=3,
    extra_num_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    patch_hidden_size=8,
    image_token_id=64,
    image_start_token_id=65,
)


def stage(steps: int, **changes: Any) -> Stage:
    """A small stage; two packed rows per step."""
    fields = {
        "steps": steps,
        "context": 24,
        "packs_per_step": 2,
        "mixture": {"x": 1.0},
        "lr": 3e-3,
        "warmup_ratio": 0.2,
    }
    return Stage(**{**fields, **changes})


def stages(first: int = 4, second: int = 8) -> dict[str, Stage]:
    """Stage 1 as in the paper, then everything."""
    return {
        "pre_training": stage(first, trains=("patch_embedding", "pre_buffer", "hw")),
        "mid_training": stage(second, lr=1e-3, context=32),
    }


def make_row(seed: int, length: int = 24, *, images: int = 1, weight: float | None = None) -> PackedBatch:
    """A packed row of two documents (the first with images of 1 x 2 tokens) and padding, random but fixed by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [length // 2, length // 3, length - length // 2 - length // 3]
    ids = torch.randint(0, 60, (length,), generator=generator)
    visual = torch.zeros(length, dtype=torch.bool)
    for i in range(images):
        visual[2 + 3 * i : 4 + 3 * i] = True
    ids[visual] = CONFIG.image_token_id
    targets = torch.full((length,), IGNORE)
    weights, modality = torch.zeros(length), torch.zeros(length, dtype=torch.long)
    positions, limits, starts = [], [], []
    begin = 0
    for number, size in enumerate(sizes):
        part = visual[begin : begin + size]
        grids = torch.tensor([[1, 2]] * (int(part.sum()) // 2), dtype=torch.int32).reshape(-1, 2)
        position, limit = positions_and_limits(part, grids)
        positions.append(position)
        limits.append(limit + begin)
        starts.append(torch.full((size,), begin, dtype=torch.int32))
        if number < 2:
            last = slice(begin + size - 4, begin + size - 1)
            targets[last] = ids[begin + size - 3 : begin + size]
            weights[last] = torch.rand(3, generator=generator) + 0.5 if weight is None else weight
            modality[begin : begin + size] = MODALITIES.index("image") if number == 0 and images else 0
        begin += size
    units = max(1, images)
    limit = torch.cat(limits).int()
    start = torch.cat(starts)
    filled = sizes[0] + sizes[1]
    return PackedBatch(
        input_ids=ids,
        positions=torch.cat(positions).int(),
        start=start,
        limit=limit,
        targets=targets,
        weights=weights,
        modality=modality,
        visual_index=visual.nonzero().squeeze(-1),
        patches=torch.randint(0, 256, (8 * units, 768), generator=generator, dtype=torch.uint8),
        grids=torch.tensor([[2, 4]] * units, dtype=torch.int32),
        info=PackInfo(
            index=seed,
            tokens=filled,
            supervised=int((targets != IGNORE).sum()),
            pairs=int((limit - start)[:filled].sum()),
            keys=(f"x/{seed}a", f"x/{seed}b"),
        ),
    )


class Steps(Dataset):
    """Item `step` is this rank's share of the step's rows; every third row is text only."""

    def __init__(self, run: dict[str, Stage], rank: int, world: int) -> None:
        self.run, self.rank, self.world = run, rank, world

    def __getitem__(self, step: int) -> list[PackedBatch]:
        first, last = list(self.run.values())
        now = first if step < first.steps else last
        rows = range(step * now.packs_per_step, (step + 1) * now.packs_per_step)
        own = [make_row(i, now.context, images=i % 3) for i in rows if i % self.world == self.rank]
        return own or [without_weight(make_row(rows[0], now.context))]  # every rank runs every module in every step


class From(Sampler):
    """Steps from a first one on, without an end."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self) -> Iterator[int]:
        step = self.first
        while True:
            yield step
            step += 1


class TinyData(LightningDataModule):
    """The door of the real data module: an endless loader from `next_step`, whose position is in its state."""

    def __init__(self, run: dict[str, Stage], num_workers: int = 0) -> None:
        super().__init__()
        self.run, self.num_workers, self.next_step = run, num_workers, 0
        self.skipped = Skipped()

    def train_dataloader(self) -> DataLoader:
        assert self.trainer is not None
        dataset = Steps(self.run, self.trainer.global_rank, self.trainer.world_size)
        return DataLoader(
            dataset, sampler=From(self.next_step), batch_size=None, num_workers=self.num_workers, collate_fn=_same
        )

    def state_dict(self) -> dict[str, int]:
        return {"next_step": self.next_step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next_step = state["next_step"]


def _same(item: Any) -> Any:
    return item


def module(run: dict[str, Stage] | None = None, **options: Any) -> NeoModule:
    """A tiny NeoModule."""
    return NeoModule(run or stages(), model=CONFIG, **options)  # type: ignore[arg-type]


def trainer(folder: Path, *callbacks: Any, steps: int = 12, save_every: int = 3, **options: Any) -> Trainer:
    """A trainer as the command line would make it, without output."""
    defaults: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "strategy": NeoStrategy(),
        "max_steps": steps,
        "max_epochs": -1,
        "default_root_dir": str(folder),
        "logger": False,
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
        "callbacks": [
            Curriculum(print_table=False),
            DataPosition(),
            *callbacks,
            CommitCheckpoint(every_n_steps=save_every, keep_last=0),
        ],
    }
    return Trainer(**{**defaults, **options})


def without_weight(batch: PackedBatch) -> PackedBatch:
    """The same row, nothing of which is trained on."""
    return replace(batch, weights=torch.zeros_like(batch.weights), targets=torch.full_like(batch.targets, IGNORE))


def without_info(batch: PackedBatch) -> PackedBatch:
    """The same row as evaluation code makes it."""
    return replace(batch, info=None)
