"""Where a run stands in its plan: what a checkpoint stores of the data.

For each stage that has begun and each lane: the number of its bundle, how many packs of that bundle were handed out,
and how many packs its first step had before. From that every later pack follows, including the samples that an ended
stage had drawn and not packed yet. As primitive values the numbers are one string (base 85 of zlib): 128 lanes in 4
stages take under a kilobyte.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from neo_lightning.data.plan.specs import PlanError

BUNDLE, DONE, BEGUN = 0, 1, 2
"""In `Position.lanes`: a lane's bundle, its packs that were handed out, and, where steps are of like cost, the packs
that the step in which it began had already."""

_MOST_BYTES = 1 << 24
"""What a position may unpack to: a checkpoint is not trusted to be small."""


@dataclass(frozen=True, slots=True)
class Position:
    """Behind a step and in front of the next."""

    step: int
    """Steps done."""
    pack: int
    """Number of the next pack; those of skip ranges are counted."""
    lanes: np.ndarray
    """[stages begun, 3, lanes] int64."""

    def to_state(self) -> dict[str, Any]:
        """Primitive values."""
        numbers = self.lanes.astype("<u4")
        planes = np.ascontiguousarray(numbers.reshape(-1).view(np.uint8).reshape(-1, 4).T)  # equal bytes stand together
        lanes = base64.b85encode(zlib.compress(planes.tobytes(), 9)).decode()
        return {"step": self.step, "pack": self.pack, "stages": len(self.lanes), "numbers": 3, "lanes": lanes}

    @classmethod
    def from_state(cls, state: dict[str, Any], lanes: int) -> Position:
        """Inverse of `to_state`, for a plan with that many lanes.

        Raises:
            PlanError: not such a state.
        """
        try:
            unpack = zlib.decompressobj()
            planes = np.frombuffer(unpack.decompress(base64.b85decode(state["lanes"]), _MOST_BYTES), dtype=np.uint8)
            numbers = np.ascontiguousarray(planes.reshape(4, -1).T).view("<u4")
            known = int(state.get("numbers", 2))  # earlier versions had no BEGUN
            table = np.zeros((int(state["stages"]), 3, lanes), dtype=np.int64)
            table[:, :known] = numbers.reshape(len(table), known, lanes)
            step, pack = int(state["step"]), int(state["pack"])
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise PlanError(f"the data's position in the checkpoint is damaged: {error}") from error
        return cls(step, pack, table)
