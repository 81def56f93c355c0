"""What ranks of a run will wait for each other, before there is data: the product's own plan over assumed lengths.

In: a stage, the modalities of its sources, what its documents cost. Out: the share of the ranks' time that is work. The
lengths are log-normal about the means that `outlook.document_of` assumes; everything else, bundles, packing, steps and
who takes which row, is what a run does. `data plan` says the same of real lengths.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np

from neo_lightning.data.plan import Balance, Plan
from neo_lightning.data.plan.report import share_of_work
from neo_lightning.training.outlook import document_of
from neo_lightning.types import CostRatio, Stage

SIGMA = 0.8
"""Deviation of the logarithm of lengths. An assumption."""
PACKS = 1024
"""Rows that are planned of a stage."""
_SHARD_PARTS, _SAMPLES = 512, 1024


class _Assumed:
    """A source of a modality: as many samples as a plan of a few steps takes, and far more."""

    shard_parts = _SHARD_PARTS

    def __init__(self, modality: str, stage: Stage) -> None:
        document = document_of(modality, stage)
        self._mean, self._text, self._seed = document.tokens, document.text, zlib.crc32(modality.encode())

    def shard_part_size(self, shard_part: int) -> int:
        return _SAMPLES

    def lengths(self, shard_part: int, context: int) -> np.ndarray:
        """Tokens of the samples [n]; 0 for those that are longer than a row."""
        random = np.random.RandomState([shard_part, self._seed])
        found = random.lognormal(np.log(self._mean) - SIGMA**2 / 2, SIGMA, _SAMPLES).astype(np.int64) + 1
        return np.where(found > context, 0, found)

    def costs(self, lengths: np.ndarray, ratio: CostRatio) -> np.ndarray:
        """Work beyond that of the tokens [n], of a causal mask's pairs and of the text's half, which is supervised."""
        supervised = lengths * (self._text / self._mean / 2)
        return np.rint(ratio.pair * lengths * (lengths + 1) / 2 + ratio.supervised * supervised).astype(np.int64)


def assumed_share(
    name: str,
    stage: Stage,
    modalities: Mapping[str, str],
    ratio: CostRatio,
    *,
    ranks: int,
    lockstep: int,
    balance: Balance,
) -> float:
    """Share of the ranks' time that is work, expected of a stage's first steps; see `data.plan.StepSpec.balance`.

    Args:
        name: of the stage.
        stage: of a recipe.
        modalities: source -> modality, for the sources of the stage's mixture.
        ratio: what its documents cost (`costs.document_costs`).
        ranks: how many.
        lockstep: ranks that wait for each other in every layer; divides `ranks`.
        balance: how rows and steps are made.
    """
    sources = {source: _Assumed(modalities[source], stage) for source in stage.mixture}

    @cache
    def lengths_of(source: str, shard_part: int) -> np.ndarray:
        return sources[source].lengths(shard_part, stage.context)

    plan = Plan(
        {name: stage},
        sources,
        lambda source, shard_part, _: lengths_of(source, shard_part),
        0,
        costs_of=lambda source, shard_part, _: sources[source].costs(lengths_of(source, shard_part), ratio),
        balance=balance,
    )
    return share_of_work(plan, stage, ranks=ranks, lockstep=lockstep, most_packs=PACKS)
