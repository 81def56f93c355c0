"""Sources in memory for tests of the plan: lengths cut into shard parts."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neo_lightning.data.plan import LengthsOf
from neo_lightning.types import Stage


class Lengths:
    """A source of samples with given lengths, in shard parts of `size`."""

    def __init__(self, lengths: np.ndarray, size: int = 100) -> None:
        self.lengths, self.size = np.asarray(lengths, dtype=np.int32), size

    @property
    def shard_parts(self) -> int:
        return -(-len(self.lengths) // self.size)

    def shard_part_size(self, shard_part: int) -> int:
        return len(self.part(shard_part))

    def part(self, shard_part: int) -> np.ndarray:
        return self.lengths[shard_part * self.size : (shard_part + 1) * self.size]


def lengths_of(sources: Mapping[str, Lengths]) -> LengthsOf:
    """Lengths that fit the stage's context; the others are left out."""

    def of(source: str, shard_part: int, stage: Stage) -> np.ndarray:
        lengths = sources[source].part(shard_part)
        return np.where(lengths <= stage.context, lengths, 0)

    return of


def stage(steps: int = 40, context: int = 512, packs: int = 4, **mixture: float) -> Stage:
    return Stage(steps=steps, context=context, packs_per_step=packs, mixture=mixture or {"text": 1}, lr=1e-3)


def drawn_scenes(random: np.random.RandomState) -> dict[str, Lengths]:
    """Lengths as drawn scenes have them at a context of 512: few values, which best fit alone packs to 96%."""
    values = {
        "text": ([76, 81, 86, 91, 111, 162], 8000),
        "image": ([33, 59, 80, 83, 86], 17000),
        "multi_image": ([126, 139, 153, 162, 171], 20000),
        "video": ([233, 259, 285, 289], 4500),
    }
    return {name: Lengths(random.choice(choices, count), 1000) for name, (choices, count) in values.items()}


def realistic(random: np.random.RandomState, samples: int = 6000) -> dict[str, Lengths]:
    """Lengths as real data have them at a context of 16K: chats, photos, sets of photos, clips of 8 to 64 frames."""
    words = np.clip(random.lognormal(5, 0.8, samples), 20, 2000)
    return {
        "text": Lengths(np.clip(random.lognormal(6, 0.9, samples), 20, 8000), 1000),
        "image": Lengths(random.randint(64, 1100, samples) + words, 1000),
        "multi_image": Lengths(random.randint(500, 2300, samples) + words, 1000),
        "video": Lengths(random.randint(8, 65, samples) * (random.randint(60, 225, samples) + 14) + words, 1000),
    }
