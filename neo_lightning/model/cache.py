"""Keys and values of all sequences in one pool, a range of places for each.

    places   0            a            b      c            d            places
             [ answered   | answering  | free | answering  | free ......]
                ^ kept for a prompt that begins alike; evicted oldest first
    layer    keys [K, P, D], values [K, E, P]       (why so: ops/interval_attention/cached.py)

A sequence takes the places of its prompt and its longest answer at once, so that nothing that has begun ever lacks
room. The pool grows as it is needed, up to a bound. Trade-off: a range is one piece, so that places between two others
can be free and yet too few; then the next sequence waits until one leaves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor

STEP = 256
"""The pool grows by multiples of this."""


@dataclass(eq=False)
class Range:
    """Places [start, start + size) of a sequence."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """One past the last place."""
        return self.start + self.size


@dataclass(eq=False, kw_only=True)
class Cache:
    """The pool."""

    most: int | None = None
    """Places that it never exceeds; None: as many as are needed."""
    places: int = 0
    """Places that it has."""
    ranges: list[Range] = field(default_factory=list)
    """Taken ones, by their start."""
    layers: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Layer -> keys [K, P, D] and values [K, E, P]; made when a layer first stores something."""

    @property
    def used(self) -> int:
        """Places that are taken."""
        return sum(taken.size for taken in self.ranges)

    def take(self, size: int, *, grow: bool) -> Range | None:
        """The first free piece of this size; None where there is none, and none can be made (or, `grow`, shall be)."""
        at = 0
        for number, taken in enumerate([*self.ranges, Range(self.places, 0)]):
            if taken.start - at >= size:
                found = Range(at, size)
                self.ranges.insert(number, found)
                return found
            at = taken.end
        end = self.ranges[-1].end if self.ranges else 0
        if not grow or (self.most is not None and end + size > self.most):
            return None
        self._grow(end + size)
        return self.take(size, grow=False)

    def give(self, taken: Range, *, keep: int = 0) -> None:
        """Free a range, all of it or what lies behind the first `keep` places."""
        if keep:
            taken.size = keep
        else:
            self.ranges.remove(taken)

    def would_fit(self, size: int, among: Iterable[Range]) -> bool:
        """Whether there would be a piece of this size, were only these ranges taken."""
        if self.most is None:
            return True
        at = 0
        for taken in (*sorted(among, key=lambda taken: taken.start), Range(self.most, 0)):
            if taken.start - at >= size:
                return True
            at = taken.end
        return False

    def extend(self, taken: Range, size: int) -> bool:
        """Whether there was room behind a range to give it this size."""
        number = self.ranges.index(taken)
        end = self.ranges[number + 1].start if number + 1 < len(self.ranges) else self.places
        fits = taken.start + size <= end
        if fits:
            taken.size = size
        return fits

    def copy(self, source: Range, target: Range, count: int) -> None:
        """The first `count` tokens of one range into another, in all layers."""
        a, b = source.start, target.start
        for keys, values in self.layers.values():
            keys[:, b : b + count] = keys[:, a : a + count].clone()
            values[:, :, b : b + count] = values[:, :, a : a + count].clone()

    def store(self, layer: int, k_TKD: Tensor, v_TKE: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Put keys and values at their places [T]; returns the layer's pool."""
        if layer not in self.layers:
            (_, k, d), e = k_TKD.shape, v_TKE.shape[2]
            self.layers[layer] = k_TKD.new_zeros(k, self.places, d), v_TKE.new_zeros(k, e, self.places)
        keys, values = self.layers[layer]
        keys.index_copy_(1, place, k_TKD.transpose(0, 1))
        values.index_copy_(2, place, v_TKE.permute(1, 2, 0))
        return keys, values

    def _grow(self, least: int) -> None:
        before, wanted = self.places, max(least, self.places * 3 // 2)
        wanted = -(-wanted // STEP) * STEP
        self.places = wanted if self.most is None else min(wanted, self.most)
        for layer, (keys, values) in self.layers.items():
            more = keys.new_zeros(keys.shape[0], self.places, keys.shape[2])
            more[:, :before] = keys
            longer = values.new_zeros(*values.shape[:2], self.places)
            longer[:, :, :before] = values
            self.layers[layer] = more, longer
