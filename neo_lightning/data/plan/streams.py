"""A source -> its endless chain of slices, of which any can be named without the ones before it.

    epoch 0: shard parts shuffled, their samples shuffled    epoch 1: shuffled anew    ...
    shard part 3          shard part 0          shard part 2
    ||||||||        ||||||||        ||||||||        a shard part is 64 slices
    taken in turn from up to 4 shard parts at a time, and dealt in blocks to the lanes

A draw is a slice and not a whole part, because a part of clips can hold ten times the tokens of a part of text: drawn
as wholes, hundreds of packs of clips would follow thousands without any. A shard part stays in use for several bundles
instead, so reading keeps its locality. A lane owns whole parts, except of a source with fewer than 4 parts for each
lane: its slices are dealt one by one, so that all lanes go through it together.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from neo_lightning.data.plan.specs import ShardParts

SLICES = 64
"""Slices of a shard part, of whatever size: a fraction of it that no stage's budgets can change."""

SPREAD = 4
"""Shard parts of a source that slices are taken from in turn."""

SHARD_PARTS_PER_LANE = 4
"""Fewer shard parts for each lane, and lanes share them."""


def random_state(seed: int, *parts: object) -> np.random.RandomState:
    """Independent generator for a named purpose; numpy promises never to change what it gives."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


class Stream:
    """The slices of one source as `lanes` lanes see them; a pure function of its arguments."""

    def __init__(self, name: str, source: ShardParts, seed: int, lanes: int) -> None:
        self.name, self.lanes = name, lanes
        self._source, self._seed = source, seed
        self.shard_parts = source.shard_parts
        self.samples = sum(source.shard_part_size(shard_part) for shard_part in range(self.shard_parts))
        owned = self.shard_parts // (SHARD_PARTS_PER_LANE * lanes)
        self._spread = max(1, min(SPREAD, owned))
        self._block = SLICES * self._spread if owned else 1
        self._order = lru_cache(maxsize=4)(self._order_of_epoch)  # by epoch

    @property
    def samples_per_slice(self) -> float:
        """Mean number of samples in a slice."""
        return self.samples / (self.shard_parts * SLICES)

    def take(self, lane: int, first: int, last: int) -> np.ndarray:
        """Samples of a lane's slices first..last-1: [n, 3] int64 of epoch, shard part, sample; by part, then slice."""
        draw = np.arange(first, last)
        chain = (draw // self._block * self.lanes + lane) * self._block + draw % self._block
        group, inside = np.divmod(chain, SLICES * self._spread)
        places = group * self._spread + inside % self._spread
        slices = inside // self._spread
        parts = [self._samples_of(place, slices[places == place]) for place in np.unique(places).tolist()]
        return np.concatenate([np.empty((0, 3), dtype=np.int64), *parts])

    def _samples_of(self, place: int, slices: np.ndarray) -> np.ndarray:
        """Samples of some slices of the shard part at a place in the chain of epochs."""
        epoch, index = divmod(place, self.shard_parts)
        shard_part = int(self._order(epoch)[index])
        size = self._source.shard_part_size(shard_part)
        order = random_state(self._seed, "rows", self.name, epoch, shard_part).permutation(size)
        chosen = np.concatenate([order[s * size // SLICES : (s + 1) * size // SLICES] for s in slices.tolist()])
        samples = np.empty((len(chosen), 3), dtype=np.int64)
        samples[:, 0], samples[:, 1], samples[:, 2] = epoch, shard_part, chosen
        return samples

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        return random_state(self._seed, "epoch", self.name, epoch).permutation(self.shard_parts)
