"""A stage's weights -> how many slices of each source a bundle draws.

A weight counts samples or tokens (`Stage.mixture_unit`), a draw is a slice, so weights are divided by the mean number
of usable samples or tokens in a source's slice. The means come from up to 8 parts spread evenly over the source: exact
for sources of 8 parts or fewer, elsewhere the mixture is off by as much as those parts are untypical. Draws are whole
slices and a rate need not be: what is owed adds up from bundle to bundle, so that a source is never off by more than
one slice in a lane.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from neo_lightning.data.plan.specs import LengthsOf, PlanError
from neo_lightning.data.plan.streams import SLICES, Stream
from neo_lightning.types import Stage

MIN_ROWS, MAX_ROWS = 64, 512
"""Rows' worth of tokens in a bundle: the last row of each is half empty on average, so 512 lose 0.1% to it."""

PROBED_SHARD_PARTS = 8

_ONE = 1 << 20
"""Rates are kept as integers in units of 2**-20 slices, so that no rounding of floats adds up."""


class Mixture:
    """Draws of one stage."""

    def __init__(
        self, name: str, stage: Stage, streams: Mapping[str, Stream], lengths_of: LengthsOf, *, steps: int = 0
    ) -> None:
        """Measure the sources. A bundle has room for so many steps, if that is more than it has anyway.

        Raises:
            PlanError: a source has no sample that this stage can use.
        """
        samples, tokens = {}, {}
        for source in stage.mixture:
            used, mean = _measure(name, stage, streams[source], lengths_of)
            samples[source] = streams[source].samples_per_slice * used
            tokens[source] = samples[source] * mean
        per_slice = tokens if stage.mixture_unit == "tokens" else samples
        ratio = {source: weight / per_slice[source] for source, weight in stage.mixture.items()}
        lanes = next(iter(streams.values())).lanes
        once = sum(tokens[source] * streams[source].shard_parts * SLICES for source in stage.mixture)
        most = min(once // stage.row_tokens, stage.steps * stage.packs_per_step) // lanes
        self.rows = int(min(max(most, MIN_ROWS), max(MAX_ROWS, steps * stage.packs_per_step)))
        """Rows' worth of tokens in a bundle: no more than the data hold once or the stage lasts, but at least 64."""
        scale = self.rows * stage.row_tokens / sum(ratio[source] * tokens[source] for source in ratio)
        self._rates = {source: max(1, round(r * scale * _ONE)) for source, r in ratio.items()}
        self._lanes = lanes

    def drawn(self, source: str, lane: int, bundles: int) -> int:
        """Slices of a source in a lane's first `bundles` bundles. Lanes round at different moments."""
        if source not in self._rates:
            return 0
        return (bundles * self._rates[source] + lane * _ONE // self._lanes) // _ONE


def _measure(name: str, stage: Stage, stream: Stream, lengths_of: LengthsOf) -> tuple[float, float]:
    """Part of a source's samples that a stage can use, and their mean number of tokens, from some of its parts."""
    probes = min(PROBED_SHARD_PARTS, stream.shard_parts)
    shard_parts = [(2 * i + 1) * stream.shard_parts // (2 * probes) for i in range(probes)]
    lengths = np.concatenate(
        [np.empty(0, dtype=np.int32), *(lengths_of(stream.name, shard_part, stage) for shard_part in shard_parts)]
    )
    used = np.count_nonzero(lengths)
    if not used:
        raise PlanError(
            f"stage {name!r}: none of the {len(lengths)} samples of source {stream.name!r} "
            f"{'that were looked at ' if len(lengths) < stream.samples else ''}can be used "
            f"with a context of {stage.context} tokens"
        )
    return used / len(lengths), int(lengths.sum(dtype=np.int64)) / int(used)
