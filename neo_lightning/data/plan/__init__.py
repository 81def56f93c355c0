"""Lengths of samples -> the run's endless sequence of packs, the same for any number of ranks, workers and stops.

    source -> epochs of shuffled shard parts, cut into slices  (streams.py)
           -> slices of all sources, by weight: a bundle (mixture.py)
           -> rows of a bundle, filled by best fit       (packing.py, bundle.py)
           -> steps of packs, from any position          (plan.py, position.py, segments.py)

Bundles are closed: which packs a bundle makes depends on nothing before it, so a resume plans one bundle for each lane.
"""

from neo_lightning.data.plan.plan import Plan, one_pass
from neo_lightning.data.plan.position import Position
from neo_lightning.data.plan.segments import Segment, resumed, segments_of
from neo_lightning.data.plan.specs import (
    Balance,
    CostsOf,
    DocumentSpec,
    LengthsOf,
    PackSpec,
    PlanError,
    ShardParts,
    StepSpec,
)

__all__ = [
    "Balance",
    "CostsOf",
    "DocumentSpec",
    "LengthsOf",
    "PackSpec",
    "Plan",
    "PlanError",
    "Position",
    "Segment",
    "ShardParts",
    "StepSpec",
    "one_pass",
    "resumed",
    "segments_of",
]
