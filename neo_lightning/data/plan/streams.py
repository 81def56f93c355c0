"""A source -> its endless chain of slices, of which any can be named without the ones before it.

    epoch 0: units shuffled, their rows shuffled    epoch 1: shuffled anew    ...
    unit 3          unit 0          unit 2
    ||||||||        ||||||||        ||||||||        a unit is 64 slices
    taken in turn from up to 4 units at a time, and dealt in blocks to the lanes

A draw is a slice and not a whole unit, because a unit of clips can hold ten times the tokens of a unit of text: drawn
as wholes, hundreds of packs of clips would follow thousands without any. A unit stays in use for several bundles
instead, so reading keeps its locality. A lane owns whole units, except of a source with fewer than 4 units for each
lane: its slices are dealt one by one, so that all lanes go through it together.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np

from neo_lightning.data.plan.specs import Units

SLICES = 64
"""Slices of a unit, of whatever size: a fraction of it that no stage's budgets can change."""

SPREAD = 4
"""Units of a source that slices are taken from in turn."""

UNITS_PER_LANE = 4
"""Fewer units for each lane, and lanes share them."""


def random_state(seed: int, *parts: object) -> np.random.RandomState:
    """Independent generator for a named purpose; numpy promises never to change what it gives."""
    digest = hashlib.sha256("/".join(map(str, (seed, *parts))).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


class Stream:
    """The slices of one source as `lanes` lanes see them; a pure function of its arguments."""

    def __init__(self, name: str, source: Units, seed: int, lanes: int) -> None:
        self.name, self.lanes = name, lanes
        self._source, self._seed = source, seed
        self.units = source.units
        self.rows = sum(source.unit_size(unit) for unit in range(self.units))
        owned = self.units // (UNITS_PER_LANE * lanes)
        self._spread = max(1, min(SPREAD, owned))
        self._block = SLICES * self._spread if owned else 1
        self._order = lru_cache(maxsize=4)(self._order_of_epoch)  # by epoch

    @property
    def rows_per_slice(self) -> float:
        """Mean number of samples in a slice."""
        return self.rows / (self.units * SLICES)

    def take(self, lane: int, first: int, last: int) -> np.ndarray:
        """Samples of a lane's slices first..last-1: [n, 3] int64 of epoch, unit, row; ordered by unit, then slice."""
        draw = np.arange(first, last)
        chain = (draw // self._block * self.lanes + lane) * self._block + draw % self._block
        group, inside = np.divmod(chain, SLICES * self._spread)
        places = group * self._spread + inside % self._spread
        slices = inside // self._spread
        parts = [self._rows(place, slices[places == place]) for place in np.unique(places).tolist()]
        return np.concatenate([np.empty((0, 3), dtype=np.int64), *parts])

    def _rows(self, place: int, slices: np.ndarray) -> np.ndarray:
        """Samples of some slices of the unit at a place in the chain of epochs."""
        epoch, index = divmod(place, self.units)
        unit = int(self._order(epoch)[index])
        size = self._source.unit_size(unit)
        rows = random_state(self._seed, "rows", self.name, epoch, unit).permutation(size)
        chosen = np.concatenate([rows[s * size // SLICES : (s + 1) * size // SLICES] for s in slices.tolist()])
        samples = np.empty((len(chosen), 3), dtype=np.int64)
        samples[:, 0], samples[:, 1], samples[:, 2] = epoch, unit, chosen
        return samples

    def _order_of_epoch(self, epoch: int) -> np.ndarray:
        return random_state(self._seed, "epoch", self.name, epoch).permutation(self.units)
