"""A conversation -> one token sequence: chat template, media segments, which tokens are supervised.

    <|im_start|>user\\n<img>VVVV</img>\\nWhat is this?<|im_end|>\\n<|im_start|>assistant\\nA cat.<|im_end|>\\n
    ................................................................................*********************

Loss is taken on the starred part: the assistant's content and its end mark; media in it are shown, not learnt, and so
is an answer that its record gives no weight. A `Mark` in a turn is one id where the tokenizer knows it.

It is built in two steps, so that planned and real lengths come from one code path. An `Outline` is the tokenised text
with holes for the media: it depends on nothing but the tokenizer, and is kept. A `Layout` fills the holes for given
pixel budgets from header facts alone; its length is what the plan packs, its tokens are what is trained on, and its
units say what to decode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from neo_lightning.data.facts import MediaError, MediaFacts, SampleFacts, Turn
from neo_lightning.data.media.image import decode_image, patchify, smart_resize
from neo_lightning.data.media.video import choose_moments, decode_frames
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.sequence import NEO, SequenceRule
from neo_lightning.types import Mark, Media, PixelBudget, TokenSequence, VideoBudget

_HOLE = -1
"""In an outline, medium k stands as _HOLE - k."""

_VISUAL = np.iinfo(np.int32).min
"""A visual token, until it has its id: a row token may have the same."""


@dataclass(frozen=True, slots=True)
class Outline:
    """Tokenised text of one sample, with holes."""

    ids: np.ndarray
    """[n] int32: token ids; medium k stands as -1 - k."""
    supervised: np.ndarray
    """[n] bool."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One image or frame that a layout shows."""

    medium: int
    """Index into the sample's media."""
    frame: int
    """Index into the clip's frames; 0 for an image."""
    height: int
    """Pixels after resizing, a multiple of a visual token's side."""
    width: int
    rule: SequenceRule = NEO

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of visual tokens."""
        return self.height // self.rule.side, self.width // self.rule.side

    @property
    def tokens(self) -> int:
        """Tokens, row tokens included."""
        rows, columns = self.grid
        return rows * (columns + self.rule.extra_columns)

    def run(self, row_id: int | None) -> np.ndarray:
        """[tokens] int64: `_VISUAL`, and the row tokens' id behind each row where there is one."""
        rows, columns = self.grid
        run = np.full((rows, columns + self.rule.extra_columns), _VISUAL)
        if row_id is not None:
            run[:, columns:] = row_id
        return run.ravel()


Segment = tuple[list[int] | Unit, ...]
"""What stands in the place of one medium: runs of text ids, and units."""


@dataclass(frozen=True, slots=True)
class Layout:
    """An outline with its holes planned."""

    outline: Outline
    segments: tuple[Segment, ...]
    """One for each medium, in order."""

    @property
    def length(self) -> int:
        """Tokens of the sequence."""
        return len(self.outline.ids) - len(self.segments) + sum(segment_length(s) for s in self.segments)

    @property
    def units(self) -> list[Unit]:
        """All images and frames, in reading order."""
        return [piece for segment in self.segments for piece in segment if isinstance(piece, Unit)]


def segment_length(segment: Segment) -> int:
    """Tokens of one medium's segment."""
    return sum(piece.tokens if isinstance(piece, Unit) else len(piece) for piece in segment)


def make_outlines(samples: Iterable[Sequence[Turn]], tokenizer: Tokenizer) -> list[Outline]:
    """Outlines of many samples; all text is tokenised in one batch."""
    plans = [_pieces(turns, tokenizer) for turns in samples]
    texts = [piece for plan in plans for piece, _ in plan if isinstance(piece, str)]
    table = dict(zip(texts, tokenizer.encode_texts(texts), strict=True))
    outlines = []
    for plan in plans:
        ids: list[int] = []
        supervised: list[bool] = []
        for piece, learnt in plan:
            run = table[piece] if isinstance(piece, str) else [piece]
            ids += run
            supervised += [learnt] * len(run)
        outlines.append(Outline(np.array(ids, dtype=np.int32), np.array(supervised, dtype=bool)))
    return outlines


def _pieces(turns: Sequence[Turn], tokenizer: Tokenizer) -> list[tuple[str | int, bool]]:
    """Text runs, special ids and holes, each with whether it is supervised.

    The role's line is one run with the text behind it, as the chat template as a whole would be tokenised; only an
    assistant's line is a run of its own, so that a prompt's tokens are a prefix of the trained sequence.
    """
    pieces: list[tuple[str | int, bool]] = []
    for turn in turns:
        answer = turn.role == "assistant"
        learnt = answer and turn.learnt
        pieces.append((tokenizer.im_start_id, False))
        text = f"{turn.role}\n"
        if answer:
            pieces.append((text, False))
            text = ""
        for part in turn.parts:
            if isinstance(part, str) and not (isinstance(part, Mark) and part in tokenizer.marks):
                text += part
                continue
            if text:
                pieces.append((text, learnt))
            pieces.append((_HOLE - part, False) if isinstance(part, int) else (tokenizer.marks[part], learnt))
            text = ""
        if text:
            pieces.append((text, learnt))
        pieces += [(tokenizer.im_end_id, learnt), ("\n", learnt)]
    return pieces


def text_runs(facts: SampleFacts, video: VideoBudget) -> Iterator[str]:
    """All text that serialising the sample tokenises, for the training of a tokenizer.

    What the template adds is most of a short conversation: role lines, a clip's sentence and time labels. A tokenizer
    that has not seen it spells it out letter by letter.
    """
    for turn in facts.turns:
        yield f"{turn.role}\n"
        yield from (part for part in turn.parts if isinstance(part, str))
    for medium in facts.media:
        if medium.kind == "video":
            seconds, _ = choose_moments(medium, video)
            yield video_prefix(len(seconds), medium.duration, video)
            yield from (time_label(second, video) for second in seconds.tolist())


def make_layout(
    outline: Outline, media: Sequence[MediaFacts], tokenizer: Tokenizer, image: PixelBudget, video: VideoBudget
) -> Layout:
    """Plan the media of a sample under the stage's budgets.

    Of n > 1 images each gets max(2 * max_pixels // n, min_pixels) pixels at most (NEO, evaluation code).

    Raises:
        MediaError: an image's aspect ratio is refused.
    """
    images = sum(m.kind == "image" for m in media)
    if images > 1:
        most = max(2 * image.max_pixels // images, image.min_pixels)
        image = PixelBudget(min_pixels=image.min_pixels, max_pixels=most)
    segments = tuple(
        _image_segment(k, m, tokenizer, image) if m.kind == "image" else _video_segment(k, m, tokenizer, video)
        for k, m in enumerate(media)
    )
    return Layout(outline, segments)


def _image_segment(k: int, facts: MediaFacts, tokenizer: Tokenizer, budget: PixelBudget) -> Segment:
    height, width = smart_resize(facts.height, facts.width, budget, tokenizer.rule.side)
    return [tokenizer.img_start_id], Unit(k, 0, height, width, tokenizer.rule), [tokenizer.img_end_id]


def _video_segment(k: int, facts: MediaFacts, tokenizer: Tokenizer, budget: VideoBudget) -> Segment:
    """Global prefix, then per frame its time, the frame and a line feed (as in NEO-ov's evaluation code)."""
    seconds, frames = choose_moments(facts, budget)
    bounds = PixelBudget(min_pixels=budget.min_pixels, max_pixels=budget.max_pixels)
    height, width = smart_resize(facts.height, facts.width, bounds, tokenizer.rule.side)
    pieces: list[list[int] | Unit] = [[*_encode_label(tokenizer, video_prefix(len(frames), facts.duration, budget))]]
    for second, frame in zip(seconds.tolist(), frames.tolist(), strict=True):
        pieces.append([*_encode_label(tokenizer, time_label(second, budget)), tokenizer.img_start_id])
        pieces += [Unit(k, frame, height, width, tokenizer.rule), [tokenizer.img_end_id, *tokenizer.newline_ids]]
    return tuple(pieces)


def video_prefix(frames: int, duration: float, budget: VideoBudget) -> str:
    """The text in front of a clip of `duration` seconds that is shown as `frames` frames."""
    end = int(duration)
    words = {"end": f"{end // 60:02d}:{end % 60:02d}", "frames": str(frames), "fps": f"{frames / duration:.1f}"}
    return _filled(budget.prefix, words)


def time_label(seconds: float, budget: VideoBudget) -> str:
    """The text in front of a frame, with MM:SS.ss; minutes do not wrap to hours."""
    hundredths = round(seconds * 100)
    time = f"{hundredths // 6000:02d}:{hundredths % 6000 // 100:02d}.{hundredths % 100:02d}"
    return _filled(budget.frame_label, {"time": time})


def _filled(text: str, words: Mapping[str, str]) -> str:
    """Plain replacement: a text from a model folder is no format string, which could look into objects."""
    for word, value in words.items():
        text = text.replace(f"{{{word}}}", value)
    return text


@lru_cache(maxsize=65536)
def _encode_label(tokenizer: Tokenizer, label: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode_text(label))


def build_sequence(layout: Layout, tokenizer: Tokenizer) -> TokenSequence:
    """Tokens of a layout."""
    ids = layout.outline.ids
    runs: list[np.ndarray | list[int]] = []
    counts = np.ones(len(ids), dtype=np.int64)  # tokens that stand in the place of each
    at = 0
    for hole in np.flatnonzero(ids < 0).tolist():
        segment = layout.segments[_HOLE - int(ids[hole])]
        runs.append(ids[at:hole])
        runs += [p.run(tokenizer.row_id) if isinstance(p, Unit) else p for p in segment if p]
        counts[hole] = segment_length(segment)
        at = hole + 1
    input_ids = np.concatenate([*runs, ids[at:]], dtype=np.int64)
    visual = input_ids == _VISUAL
    input_ids[visual] = tokenizer.context_id
    grids = np.array([unit.grid for unit in layout.units], dtype=np.int32).reshape(-1, 2)
    return TokenSequence(
        input_ids=torch.from_numpy(input_ids),
        supervised=torch.from_numpy(np.repeat(layout.outline.supervised, counts)),  # a hole is not
        visual=torch.from_numpy(visual),
        grids=torch.from_numpy(grids),
    )


def read_patches(layout: Layout, media: Sequence[Media], facts: Sequence[MediaFacts]) -> Tensor:
    """Decode, resize and cut the layout's units: [P, 768] uint8, unit after unit.

    Raises:
        MediaError: a medium is damaged or is not what its facts say.
    """
    if len(media) != len(facts):
        raise MediaError(f"{len(media)} media were read, {len(facts)} were planned")
    patches: list[Tensor] = []
    for medium, fact, segment in zip(media, facts, layout.segments, strict=True):
        patches += read_medium(medium, fact, segment)
    return together(patches)


def read_medium(medium: Media, fact: MediaFacts, segment: Segment) -> Iterator[Tensor]:
    """Patches [P, 768] uint8 of each of a medium's units."""
    units = [piece for piece in segment if isinstance(piece, Unit)]
    if medium.kind != fact.kind:
        raise MediaError(f"a {medium.kind} was read where a {fact.kind} was planned")
    size, side = (units[0].height, units[0].width), units[0].rule.patch  # all frames of a clip share them
    if fact.kind == "image":
        pixels: Iterable[Tensor] = [decode_image(medium.data, fact, size)]
    else:
        pixels = decode_frames(medium.data, fact, [unit.frame for unit in units], size)
    return (patchify(unit, side) for unit in pixels)


def together(patches: list[Tensor], rule: SequenceRule = NEO) -> Tensor:
    """Patches of one document [P, values]."""
    if len(patches) == 1:  # most often; one picture need not be copied
        return patches[0]
    return torch.cat(patches) if patches else torch.empty(0, rule.patch_values, dtype=torch.uint8)
