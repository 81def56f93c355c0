"""A data module of four small sources and three stages, and what its loader gives."""

from __future__ import annotations

from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.types import PackedBatch, PixelBudget, Stage, VideoBudget

SMALL = PixelBudget(min_pixels=32 * 32, max_pixels=64 * 64)
CLIP = VideoBudget(fps=None, max_frames=3, min_pixels=32 * 32, max_pixels=64 * 64)


def stage(**changes: Any) -> Stage:
    mixture = changes.pop("mixture", {"text": 1, "image": 2, "pairs": 1, "clips": 1})
    return Stage(
        **{"steps": 3, "context": 256, "packs_per_step": 4, "lr": 1e-3, "image": SMALL, "video": CLIP, **changes},
        mixture=mixture,
    )


def stages() -> dict[str, Stage]:
    return {
        "warm": stage(mixture={"text": 1}, context=128, packs_per_step=2),
        "mid": stage(),
        "end": stage(context=512, packs_per_step=3, loss_weighting="token"),
    }


def module(manifest: Path, tokenizer_folder: Path, **options: Any) -> NeoDataModule:
    return NeoDataModule(str(manifest), options.pop("stages", stages()), str(tokenizer_folder), **options)


def take(data: NeoDataModule, n: int) -> list[list[PackedBatch]]:
    return list(islice(iter(data.train_dataloader()), n))


def same(a: PackedBatch, b: PackedBatch) -> bool:
    tensors = [f.name for f in fields(a) if isinstance(getattr(a, f.name), torch.Tensor)]
    return a.info == b.info and all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)


def assert_same(a: list[list[PackedBatch]], b: list[list[PackedBatch]]) -> None:
    assert [len(step) for step in a] == [len(step) for step in b]
    assert a
    assert all(same(x, y) for s, t in zip(a, b, strict=True) for x, y in zip(s, t, strict=True))
