"""The typed currency between rooms: every door passes one of these frozen dataclasses and nothing else.

    shard --index--> SampleFacts --plan--> PackSpec --read--> Sample
        --serialise--> TokenSequence --collate--> PackedBatch

Shape letters used in this file and everywhere else:

    T  tokens of one packed row (text and visual)      V  visual tokens among them
    P  16x16 pixel patches (4 per visual token)        I  images and video frames ("units")
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor

MODALITIES = ("text", "image", "multi_image", "video")
"""What a source may hold; a document's modality travels as its index in this tuple."""

IGNORE = -100
"""Target of a position that is not supervised."""

PATCH = 16
"""Side of a patch in pixels; a visual token is 2 x 2 patches."""

PIXELS_PER_TOKEN_SIDE = 32
"""Side in pixels of the square that one visual token covers."""


@dataclass(frozen=True, kw_only=True)
class PixelBudget:
    """Bounds of a resized image's area, in pixels (see `data.image.smart_resize`)."""

    min_pixels: int = 256 * 256
    """Area in pixels that a smaller image is enlarged to."""
    max_pixels: int = 1024 * 1024
    """Area in pixels that a larger image is reduced to."""

    def __post_init__(self) -> None:
        if not 0 < self.min_pixels <= self.max_pixels:
            raise ValueError(
                f"pixel budget: need 0 < min_pixels <= max_pixels, got {self.min_pixels}, {self.max_pixels}"
            )


VIDEO_WORDS = {"prefix": ("end", "frames", "fps"), "frame_label": ("time",)}
"""Texts of a `VideoBudget`, and the words in braces that are filled in for each clip or frame."""


@dataclass(frozen=True, kw_only=True)
class VideoBudget:
    """How many frames of a clip are shown, at what size, and what is said before them.

    Frames are chosen by presentation timestamps: `fps` frames a second of the clip, at most `max_frames`
    (spread evenly where the cap bites). `fps=None` always takes `max_frames` timestamps spread evenly.
    """

    fps: float | None = 1.0
    """Frames shown of each second of the clip; null takes `max_frames` of every clip, spread evenly."""
    max_frames: int = 128
    """Most frames of a clip; a longer one shows so many, spread evenly."""
    min_pixels: int = 4 * 32 * 32
    """Per frame, in pixels: a smaller one is enlarged to it."""
    max_pixels: int = 360 * 640
    """Per frame, in pixels: a larger one is reduced to it."""
    prefix: str = (
        "The time range of this video is [00:00-{end}], and the following is a series of {frames} frames sampled at "
        "{fps} FPS.\n"
    )
    """Text in front of a clip: its last second as MM:SS, the number of frames, and frames a second (one decimal)."""
    frame_label: str = "[{time}]:"
    """Text in front of each frame: its moment as MM:SS.ss."""

    def __post_init__(self) -> None:
        for name, known in VIDEO_WORDS.items():
            for word in re.findall(r"\{(\w*)\}", getattr(self, name)):
                if word not in known:
                    raise ValueError(f"video budget: {name} has {{{word}}}; known: {{{'}, {'.join(known)}}}")
        if self.max_frames < 1 or (self.fps is not None and self.fps <= 0):
            raise ValueError(f"video budget: need max_frames >= 1 and fps > 0, got {self.max_frames}, {self.fps}")
        PixelBudget(min_pixels=self.min_pixels, max_pixels=self.max_pixels)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of the curriculum: what trains, on what, how long and how fast.

    A run is a mapping of stage names to stages, in order. The stage is a pure function of the optimiser step.
    """

    steps: int
    """Optimiser steps."""
    context: int
    """Most tokens of a document, and of a packed row where `row` says nothing else."""
    packs_per_step: int
    """Global batch, in packed rows: micro-batches per rank x ranks (x groups of ranks, where they share rows)."""
    mixture: Mapping[str, float]
    """Source name (from the manifest) -> weight, in `mixture_unit`."""
    lr: float
    """Peak learning rate."""
    mixture_unit: Literal["samples", "tokens"] = "samples"
    """What the weights of the mixture count; tokens of images and frames included."""
    trains: tuple[str, ...] = ("all",)
    """Parameter groups (all, patch_embedding, pre_buffer, hw, backbone, lora: `training.stages.GROUPS`) or glob
    patterns of parameter names; with a `-` in front what is taken out again; the rest is frozen."""
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    """Group or glob pattern -> factor of the learning rate of these parameters; of several, the last that holds a
    parameter counts. Without an entry it is 1."""
    warmup_ratio: float = 0.01
    """Part of the stage's steps with linear warm-up."""
    min_lr_ratio: float = 0.1
    """Final learning rate over peak, at the end of the cosine."""
    image: PixelBudget = field(default_factory=PixelBudget)
    video: VideoBudget = field(default_factory=VideoBudget)
    loss_weighting: Literal["square", "token", "sample"] = "square"
    """Per document of n supervised tokens, each weighs 1/sqrt(n) | 1 | 1/n."""
    row: int | None = None
    """Tokens in a packed row, where that is more than `context`: every row of the stage has exactly this length. What
    documents cost evens out in longer rows, which several ranks may share (`NeoStrategy`'s `sequence_size`)."""
    too_long: Literal["drop", "rescale"] = "drop"
    """A sample longer than the context is left out (and listed), or its images get smaller until it fits."""

    def __post_init__(self) -> None:
        for name in ("steps", "context", "packs_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"stage: {name} must be at least 1, got {getattr(self, name)}")
        if self.row is not None and self.row < self.context:
            raise ValueError(f"stage: row must hold a document of {self.context} tokens (context), got {self.row}")
        if not self.lr > 0:
            raise ValueError(f"stage: lr must be positive, got {self.lr}")
        if not (0 <= self.warmup_ratio <= 1 and 0 <= self.min_lr_ratio <= 1):
            raise ValueError("stage: warmup_ratio and min_lr_ratio must lie in [0, 1]")
        if not self.mixture:
            raise ValueError("stage: mixture names no source")
        for name, weight in self.mixture.items():
            if not (weight > 0 and weight < float("inf")):
                raise ValueError(f"stage: mixture weight of {name!r} must be positive and finite, got {weight}")
        for name, scale in self.lr_scale.items():
            if not (scale > 0 and scale < float("inf")):
                raise ValueError(f"stage: lr_scale of {name!r} must be positive and finite, got {scale}")

    @property
    def row_tokens(self) -> int:
        """Tokens in a packed row."""
        return self.row or self.context


@dataclass(frozen=True, kw_only=True)
class Media:
    """One encoded image or clip, as it lies in the shard."""

    kind: Literal["image", "video"]
    data: bytes
    """Encoded file; its format is decided by content, never by name."""
    name: str = ""
    """Member name, for messages only."""
    section: tuple[float, float] | None = None
    """Of a clip: the seconds from its first frame between which it is shown; None shows all of it."""


class Mark(str):
    """A token inside a turn, by its name, such as `<think>`: one id where the tokenizer knows it, else characters.

    Only the chat template and a source's `answer_tokens` make marks (see `data.text.answers`).
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Mark({str(self)!r})"


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[str | Media, ...]
    """Text runs and media in reading order. Text is plain, special tokens in it have no power; a `Mark` is a token."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A conversation with its media, before anything is decoded. A caption or plain text is one assistant message."""

    key: str
    """Unique within its source; names the sample in logs."""
    modality: str
    """One of MODALITIES."""
    messages: tuple[Message, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The JSON's `meta` object, untouched; evaluation reads its task and answer from here."""


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """One serialised document of N tokens; each image or frame is a run of image-context tokens."""

    input_ids: Tensor
    """[N] int64."""
    supervised: Tensor
    """[N] bool: the model is trained to produce this token."""
    visual: Tensor
    """[N] bool: this token is a visual one."""
    grids: Tensor
    """[I, 2] int32: rows and columns of each unit in visual tokens, in reading order."""


@dataclass(frozen=True, kw_only=True)
class CostRatio:
    """What documents cost a step beside their tokens, in tokens' worth of work. The defaults: the 2B, all trained."""

    pair: float = 1.085e-4
    """A query-key pair that the mask lets through."""
    supervised: float = 0.137
    """A supervised token."""


@dataclass(frozen=True, kw_only=True)
class PackInfo:
    """What the training loop reports about a pack. Plain Python values; never on a device."""

    index: int
    """Position in the run's sequence of packs, from 0."""
    tokens: int
    """Tokens of documents (without padding)."""
    supervised: int
    """Supervised tokens."""
    pairs: int
    """Query-key pairs that the mask lets through: sum of limit - start over document tokens. Where layers have masks
    of two kinds, the average layer's."""
    keys: tuple[str, ...]
    """`source/key` of each document, in order."""
    tombstones: tuple[tuple[str, str], ...] = ()
    """(`source/key`, reason) of documents found bad when read: their tokens stay, with blank pixels and weight 0."""


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """One packed row of T tokens: a micro-batch. Padding is a last document without supervised tokens.

    A row without pixels still carries one blank unit behind the last visual token, with no place in the row: every
    rank then runs every module (see `model.neo`). So sum(rows * cols of grids) >= V.
    """

    input_ids: Tensor
    """[T] int64."""
    positions: Tensor
    """[T, 3] int32: (t, h, w), restarting in every document."""
    start: Tensor
    """[T] int32: first token of the document."""
    limit: Tensor
    """[T] int32: one past the last key that the token sees."""
    targets: Tensor
    """[T] int64: the next token where that is supervised, IGNORE elsewhere."""
    weights: Tensor
    """[T] float32: loss weight of the prediction made at this token, 0 where not supervised."""
    modality: Tensor
    """[T] int64: index in MODALITIES of the token's document (padding: 0, with weight 0)."""
    visual_index: Tensor
    """[V] int64: places of the visual tokens."""
    patches: Tensor
    """[P, 768] uint8: RGB patches flattened as (channel, row, column); unit after unit, row-major on the patch grid.
    768 is 3 x 16 x 16; a `SequenceRule` with another token side has other patches."""
    grids: Tensor
    """[I, 2] int32: rows and columns of each unit in patches (twice those in tokens)."""
    row_index: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    """[R] int64: places of the row tokens of units, where the `SequenceRule` has any."""
    info: PackInfo | None = None
    places: Tensor = field(init=False)
    """[n] int64: where `targets` holds a token. Found when the batch is made, on the host: a device would have to be
    waited for."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", (self.targets != IGNORE).nonzero().squeeze(-1))

    def to(self, device: Any, non_blocking: bool = False) -> PackedBatch:
        """Copy of this batch with every tensor on `device`."""
        return self._map(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> PackedBatch:
        """Copy of this batch in page-locked memory."""
        return self._map(lambda x: x.pin_memory())

    def _map(self, fn: Any) -> PackedBatch:
        moved = copy(self)
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), torch.Tensor):
                object.__setattr__(moved, f.name, fn(value))
        return moved


@dataclass(frozen=True, kw_only=True)
class RowPart(PackedBatch):
    """One of the equal parts of a packed row that several ranks share. Tokens see those of other parts.

    `start` and `limit` are those of all parts' tokens, `visual_index` and `places` count from the part's first token;
    every other field of tokens is of the part alone, and so is `info`: a document is counted where it begins. The
    patches are those of the part's visual tokens and, where a cut goes through a row of an image, of that whole row.
    """

    part: int
    """Which of the parts, from 0."""
    first_row: int = 0
    """Rows of visual tokens that the first unit has in front of its patches here."""
    before: int = 0
    """Visual tokens that the patches hold in front of the part's first."""
    row_keys: tuple[str, ...] = ()
    """`source/key` of each document of the whole row, in order."""

    @property
    def offset(self) -> int:
        """Place of the part's first token in the row."""
        return self.part * self.input_ids.numel()
