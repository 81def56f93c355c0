"""What ranks are expected to wait for each other, before there is data."""

from __future__ import annotations

import pytest

from neo_lightning.training.balance import assumed_share
from neo_lightning.types import CostRatio

from .tiny import stage

MODALITIES = {"words": "text", "pictures": "image", "clips": "video"}
RUN = stage(100, context=16384, packs_per_step=16, mixture={"words": 2, "pictures": 4, "clips": 1})


def share(balance: str, pair: float = 1.1e-4, ranks: int = 16, lockstep: int = 16) -> float:
    ratio = CostRatio(pair=pair, supervised=0.0)
    return assumed_share("one", RUN, MODALITIES, ratio, ranks=ranks, lockstep=lockstep, balance=balance)  # type: ignore[arg-type]


def test_steps_of_like_cost_wait_less_and_slots_where_a_rank_has_several_rows() -> None:
    assert share("none") == pytest.approx(0.77, abs=0.06), "about what benchmarks/balance.py finds for 8 and 128 ranks"
    assert share("slots") == share("none"), "one row a rank: nothing to deal"
    assert share("steps") > 0.97
    assert share("none", ranks=4, lockstep=4) < share("slots", ranks=4, lockstep=4) - 0.1
    assert share("none", ranks=4, lockstep=1) > share("none", ranks=4, lockstep=4), "copies meet once a step"


def test_without_pairs_or_others_nobody_waits() -> None:
    assert share("none", pair=0.0) > 0.97, "rows are full, and tokens are all that costs"
    assert share("none", ranks=1, lockstep=1) == 1
