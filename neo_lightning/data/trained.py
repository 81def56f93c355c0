"""What a checkpoint says about the data it was trained on, against the stages that are asked for now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from neo_lightning.data.fingerprint import differences, of_sources, segments_from, unpack_parts
from neo_lightning.data.plan import PlanError, Position, Segment, resumed
from neo_lightning.types import CostRatio, Stage

VERSION = 3
"""Of a data module's state."""
READABLE = (2, 3)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Where a checkpoint stands, and the plan that leads from there to the end of other stages."""

    position: Position
    segments: tuple[Segment, ...]
    """What was trained, and behind it what is asked for now."""
    changed: tuple[str, ...]
    """What of the stage it stands in is otherwise, but for its length."""
    parts: Mapping[str, Any]
    """See `data.fingerprint`."""

    @classmethod
    def of(
        cls,
        state: Mapping[str, Any],
        stages: Mapping[str, Stage],
        lanes: int,
        costs: Mapping[str, CostRatio] | None = None,
    ) -> Trained:
        """Read a data module's state.

        Raises:
            PlanError: it is damaged; or stages that are over are not as they were.
        """
        if state.get("version") not in READABLE:
            raise PlanError(f"data state of version {state.get('version')}; this program reads {VERSION}")
        parts = unpack_parts(state["digest"])
        if parts.get("lanes", lanes) != lanes:
            raise PlanError(f"lanes: was {parts['lanes']}, is {lanes}; the packs of the steps done were others")
        position = Position.from_state(dict(state), lanes)
        segments, changed = resumed(
            stages, segments_from(parts, stages, len(position.lanes), costs or {}), position.step, costs
        )
        return cls(position=position, segments=segments, changed=tuple(changed), parts=parts)

    def differences(self, now: Mapping[str, Any]) -> list[str]:
        """What the steps that were done depended on and is otherwise in a fingerprint of now."""
        begun = self.segments[: len(self.position.lanes)]
        drawn = list(dict.fromkeys(source for segment in begun for source in segment.stage.mixture))
        return differences(of_sources(self.parts, drawn), of_sources(now, drawn))


def begun(state: Mapping[str, Any]) -> list[str]:
    """Names of the stages that a data module's state has done a step of; empty for another's."""
    try:
        parts, count = unpack_parts(state["digest"]), int(state["stages"])
    except (KeyError, TypeError, ValueError):
        return []
    names = [part.split(" ", 2)[2] for part in parts if part.startswith("stage ")]
    return list(dict.fromkeys(names[:count]))
