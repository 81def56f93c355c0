"""Facts and a stage's budgets -> tokens of samples: one sample with its layout, or a whole shard part as arrays.

`fitted_layout` is the definition; `measure` computes the same numbers for thousands of samples at once (a test
compares them) and builds nothing. What a sample costs is its text, counted when it was indexed, and for each
medium a segment: the smart_resize grid of an image; the sentence, labels and grids of a clip's frames.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from neo_lightning.data.facts import MediaFacts, SampleError
from neo_lightning.data.index import Source
from neo_lightning.data.index.table import KINDS, FactsTable
from neo_lightning.data.media.image import MAX_ASPECT
from neo_lightning.data.text.serialize import Layout, Outline, make_layout, time_label, video_prefix
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import CostRatio, PixelBudget, Stage, VideoBudget

REMEMBERED_SHARD_PARTS = 4096
"""Shard parts whose lengths and costs stay in memory: 128 MB where each has 4096 samples."""

_MAX_HALVINGS = 12
_Budget = TypeVar("_Budget", PixelBudget, VideoBudget)


def fitted_layout(
    outline: Outline, media: Sequence[MediaFacts], tokenizer: Tokenizer, stage: Stage
) -> tuple[Layout, int]:
    """Layout of a sample under a stage's budgets, and how often its pixel budgets were halved to make it fit.

    Raises:
        SampleError: it does not fit the context, or a medium is refused.
    """
    image, video = stage.image, stage.video
    for halvings in range(_MAX_HALVINGS):
        layout = make_layout(outline, media, tokenizer, image, video)
        if layout.length <= stage.context:
            return layout, halvings
        if stage.too_long == "drop" or not media or all(unit.grid == (1, 1) for unit in layout.units):
            break
        image, video = _halved(image), _halved(video)
    raise SampleError(too_long_reason(layout.length, stage.context))


def too_long_reason(length: int, context: int) -> str:
    """Why a sample is left out."""
    return f"{length} tokens are more than the context of {context}"


def _halved(budget: _Budget) -> _Budget:
    most = max(1, budget.max_pixels // 2)
    return replace(budget, min_pixels=min(budget.min_pixels, most), max_pixels=most)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPartShapes:
    """What of a shard part of n samples with m media decides about lengths."""

    text: np.ndarray
    """[n] int: tokens of the outline without its holes."""
    supervised: np.ndarray
    """[n] int: supervised tokens."""
    owner: np.ndarray
    """[m] int: sample of each medium, not decreasing."""
    video: np.ndarray
    """[m] bool: a clip, not an image."""
    width: np.ndarray
    """[m] int: pixels as shown."""
    height: np.ndarray
    frames: np.ndarray
    """[m] int: frames of a clip."""
    duration: np.ndarray
    """[m] float64: seconds of a clip."""

    def of_media(self, chosen: np.ndarray) -> ShardPartShapes:
        """The same samples with only some of the media [m] bool."""
        per_sample = ("text", "supervised")
        return replace(
            self, **{f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name not in per_sample}
        )

    @classmethod
    def of(cls, table: FactsTable, labels: Labels) -> ShardPartShapes:
        """Shapes of a shard part whose tokens were counted."""
        assert table.turn_tokens is not None, "the source was opened without a tokenizer"
        learnt = np.where(table.turn_learnt, table.turn_tokens - labels.assistant_line, 0)
        total = np.concatenate([[0], np.cumsum(learnt, dtype=np.int64)])
        return cls(
            text=table.text_tokens,
            supervised=total[table.turn_splits[1:]] - total[table.turn_splits[:-1]],
            owner=np.repeat(np.arange(len(table)), table.media_counts),
            video=table.media_kind == KINDS.index("video"),
            width=table.media_width,
            height=table.media_height,
            frames=np.diff(table.tick_splits),
            duration=table.media_duration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Of n samples, each [n]; all 0 where a sample is left out."""

    length: np.ndarray
    """int32: tokens."""
    supervised: np.ndarray
    """int32: supervised tokens."""
    pairs: np.ndarray
    """int64: query-key pairs that the mask lets through."""
    halvings: np.ndarray
    """int8: how often the pixel budgets were halved; -1 where the aspect ratio of a medium is refused."""
    full: np.ndarray
    """int32: tokens as they were at last looked at, of samples that are left out too."""

    def cost(self, ratio: CostRatio) -> np.ndarray:
        """int32: work beyond that of the tokens, in tokens' worth of work."""
        return np.rint(ratio.pair * self.pairs + ratio.supervised * self.supervised).astype(np.int32)


def measure(shapes: ShardPartShapes, labels: Labels, stage: Stage) -> Measures:
    """Lengths of a shard part's samples; equal to those of `fitted_layout`, 0 where that raises."""
    n = len(shapes.text)
    full, pairs, halvings = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int8)
    longer, shorter = np.maximum(shapes.width, shapes.height), np.minimum(shapes.width, shapes.height)
    refused = np.bincount(shapes.owner[longer > MAX_ASPECT * shorter], minlength=n) > 0
    open_ = ~refused
    has_media = np.bincount(shapes.owner, minlength=n) > 0
    image, video = stage.image, stage.video
    for halving in range(_MAX_HALVINGS):
        own = shapes.of_media(open_[shapes.owner])
        tokens, extra, largest = _media_tokens(own, labels, image, video)
        full[open_] = (shapes.text + tokens)[open_]
        causal = full * (full + 1) // 2
        pairs[open_] = (causal + np.rint(extra * (1 - labels.rule.causal_part)).astype(np.int64))[open_]
        halvings[open_] = halving
        open_ &= (full > stage.context) & has_media & (largest > 1) & (stage.too_long == "rescale")
        if not open_.any():
            break
        image, video = _halved(image), _halved(video)
    halvings[refused] = -1
    kept = ~refused & (full <= stage.context)
    return Measures(
        length=np.where(kept, full, 0).astype(np.int32),
        supervised=np.where(kept, shapes.supervised, 0).astype(np.int32),
        pairs=np.where(kept, pairs, 0),
        halvings=halvings,
        full=full.astype(np.int32),
    )


def _media_tokens(
    shapes: ShardPartShapes, labels: Labels, image: PixelBudget, video: VideoBudget
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each sample [n]: tokens of its media's segments, pairs beyond the causal ones, tokens of its largest unit."""
    n = len(shapes.text)
    images = np.bincount(shapes.owner[~shapes.video], minlength=n)[shapes.owner]
    shared = np.maximum(2 * image.max_pixels // np.maximum(images, 1), image.min_pixels)
    most = np.where(shapes.video, video.max_pixels, np.where(images > 1, shared, image.max_pixels))
    least = np.where(shapes.video, video.min_pixels, image.min_pixels)
    rows, columns = unit_grids(shapes.height, shapes.width, least, most, labels.rule.side)
    unit = rows * (columns + labels.rule.extra_columns)
    shown = np.ones(len(unit), dtype=np.int64)
    segment = unit + 2
    clips = np.flatnonzero(shapes.video)
    if len(clips):
        duration = shapes.duration[clips]
        wanted = np.full(len(clips), video.max_frames) if video.fps is None else np.rint(duration * video.fps)
        shown[clips] = np.clip(np.minimum(wanted, shapes.frames[clips]), 1, video.max_frames).astype(np.int64)
        segment[clips] = shown[clips] * (unit[clips] + 2 + labels.newline) + labels.of_clips(
            shown[clips], duration, video
        )
    tokens, extra = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    largest = np.zeros(n, dtype=np.int64)
    np.add.at(tokens, shapes.owner, segment)
    np.add.at(extra, shapes.owner, shown * labels.rule.unit_pairs(rows, columns))
    np.maximum.at(largest, shapes.owner, rows * columns)
    return tokens, extra, largest


def unit_grids(
    height: np.ndarray, width: np.ndarray, least: np.ndarray, most: np.ndarray, f: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns [m] int64 of units of these sizes under bounds of their areas in pixels (see smart_resize)."""
    height, width = height.astype(np.float64), width.astype(np.float64)  # exact: sides and areas are below 2**53
    rows, columns = np.maximum(1, np.rint(height / f)), np.maximum(1, np.rint(width / f))
    area = rows * columns * f * f
    shrink = np.sqrt(height * width / most)
    grow = np.sqrt(least / (height * width))
    grid = []
    for side, nearest in ((height, rows), (width, columns)):
        small, large = np.maximum(1, np.floor(side / shrink / f)), np.ceil(side * grow / f)
        grid.append(np.where(area > most, small, np.where(area < least, large, nearest)).astype(np.int64))
    return grid[0], grid[1]


class Labels:
    """Numbers of tokens of the sentences and time labels around a clip's frames; each is tokenised once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, self.rule = tokenizer, tokenizer.rule
        self.newline = len(tokenizer.newline_ids)
        """Tokens of a line feed."""
        self.assistant_line = 1 + len(tokenizer.encode_text("assistant\n"))
        """Tokens in front of what an assistant's turn teaches."""
        self._sentences: dict[str, int] = {}
        self._times: dict[str, np.ndarray] = {}  # of each wording of the label, by hundredths of a second

    def of_clips(self, frames: np.ndarray, duration: np.ndarray, video: VideoBudget) -> np.ndarray:
        """Tokens [n] of the sentence and all time labels of clips that are shown as so many frames."""
        texts = [video_prefix(n, seconds, video) for n, seconds in zip(frames.tolist(), duration.tolist(), strict=True)]
        if new := sorted(set(texts) - self._sentences.keys()):
            self._sentences |= zip(new, map(len, self._tokenizer.encode_texts(new)), strict=True)
        clip = np.repeat(np.arange(len(frames)), frames)
        number = np.arange(len(clip)) - np.repeat(np.cumsum(frames) - frames, frames)
        seconds = (number + 0.5) * (duration / frames)[clip]  # as in video.choose_moments
        times = self._of_times(np.rint(seconds * 100).astype(np.int64), video)
        counted = np.bincount(clip, weights=times, minlength=len(frames)).astype(np.int64)
        return counted + np.array([self._sentences[text] for text in texts], dtype=np.int64)

    def _of_times(self, hundredths: np.ndarray, video: VideoBudget) -> np.ndarray:
        times = self._times.get(video.frame_label, np.full(0, -1, dtype=np.int16))
        missing = max(0, int(hundredths.max(initial=-1)) + 1 - len(times))
        times = self._times[video.frame_label] = np.concatenate([times, np.full(missing, -1, dtype=np.int16)])
        if len(new := np.unique(hundredths[times[hundredths] < 0])):
            texts = [time_label(h / 100, video) for h in new.tolist()]
            times[new] = [len(ids) for ids in self._tokenizer.encode_texts(texts)]
        return times[hundredths]


class ShardPartLengths:
    """`LengthsOf` and `CostsOf` for a plan: measures shard parts as they are asked for and remembers the latest."""

    def __init__(
        self,
        sources: Mapping[str, Source],
        tokenizer: Tokenizer,
        note: Callable[[str, Stage, str], None],
        ratio_of: Callable[[Stage], CostRatio] = lambda stage: CostRatio(),
    ) -> None:
        """
        Args:
            sources: by name.
            tokenizer: of sentences and labels of clips.
            note: told (`source/key`, stage, reason) of each sample left out or shrunk, once for each part.
            ratio_of: what documents cost in a stage.
        """
        self._sources, self._tokenizer, self._note, self._ratio_of = sources, tokenizer, note, ratio_of
        self._labels = Labels(tokenizer)
        self._noted: set[tuple[str, int, int]] = set()
        self._remembered: OrderedDict[tuple[str, int, int], tuple[np.ndarray, np.ndarray]] = OrderedDict()

    def __call__(self, source: str, shard_part: int, stage: Stage) -> np.ndarray:
        """[rows] int32 tokens of a shard part's samples; 0 where one is left out."""
        return self._known(source, shard_part, stage)[0]

    def costs(self, source: str, shard_part: int, stage: Stage) -> np.ndarray:
        """[rows] int32 work of a shard part's samples beyond that of their tokens, in tokens' worth of work."""
        return self._known(source, shard_part, stage)[1]

    def _known(self, source: str, shard_part: int, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
        key = source, shard_part, id(stage)
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key]
        found = self.measures(source, shard_part, stage)
        if key not in self._noted:
            self._noted.add(key)
            self._tell(source, shard_part, stage, found)
        self._remembered[key] = found.length, found.cost(self._ratio_of(stage))
        if len(self._remembered) > REMEMBERED_SHARD_PARTS:
            self._remembered.popitem(last=False)
        return self._remembered[key]

    def measures(self, source: str, shard_part: int, stage: Stage) -> Measures:
        """All that is known of a shard part's samples under a stage; measured anew each time."""
        table = self._sources[source].shard_part_facts(shard_part)
        return measure(ShardPartShapes.of(table, self._labels), self._labels, stage)

    def _tell(self, source: str, shard_part: int, stage: Stage, measures: Measures) -> None:
        for sample_index in np.flatnonzero((measures.length == 0) | (measures.halvings > 0)).tolist():
            halvings = int(measures.halvings[sample_index])
            if measures.length[sample_index]:
                reason = f"kept with its pixel budget halved {halvings} times to fit the context"
            elif halvings < 0:
                reason = f"aspect ratio over {MAX_ASPECT}"
            else:
                reason = too_long_reason(int(measures.full[sample_index]), stage.context)
            self._note(
                f"{source}/{self._sources[source].shard_part_facts(shard_part).key(sample_index)}", stage, reason
            )
