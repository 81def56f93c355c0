"""(kind, seed, split, index) -> one scene with its messages, the same on every machine and in every process.

Train and held-out scenes can never meet: a digest of a layout's parameters (which decide its pixels) puts one layout
in five aside for the held-out split, and each split redraws until it hits its own side. This holds for every pair of
seeds, unlike two streams of random numbers that are merely unlikely to collide.

Training leans where held-out questions are even. Whether two colours are equal, and which image has the colour asked
for, cannot be told from either side alone, so even questions pull a fresh model nowhere for a long time (as parities
do: Daniely and Malach, NeurIPS 2020, Cornacchia and Mossel, ICML 2023; both learn them with skewed inputs). So
in half of the albums what is equal is more often red or a circle (`tasks.skewed`), and of the searches a part asks for
what stands first in a fixed order (`tasks.favourite`): then one image already says something about the answer. Only in
half, as otherwise the rarest colours are equal too rarely to be learnt as well.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from neo_lightning.scenes import draw
from neo_lightning.scenes.boards import Board
from neo_lightning.scenes.layouts import CLIP_FPS, Album, Crowd, Lights, Motion, Number, Pair, Portrait, Single
from neo_lightning.scenes.tasks import BOARDS, TASKS, Layout, Question, pick
from neo_lightning.scenes.words import Rule, Table

Split = Literal["train", "test"]
MODALITIES = ("text", "image", "multi_image", "video")
PAIR = "pair"
"""A training scene of two shapes: a source of its own, as what it teaches comes last (docs/ablations.md)."""
BOARD = "board"
"""A training scene of a board, with several questions, the first of which comes before the picture half the time."""
HELD_OUT_SHARE = 5
"""One layout in this many belongs to the held-out split."""
DARK_SHARE = 0.01
"""Part of the training scenes that show only black, with the questions and answers of what would be there.

A model that never saw such a scene may answer it with words that fit no question. One that did gives the best guess
that the wording allows, so asking again with black pixels shows what the wording gives away."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn scene with its questions and their only right answers."""

    key: str
    """Unique within its split; a sample's basename in the shard."""
    modality: str
    """text | image | multi_image | video."""
    questions: tuple[Question, ...]
    """In order; exactly one in the held-out split."""
    images: tuple[Image.Image, ...] = ()
    """RGB images in reading order; empty for text and video."""
    frames: tuple[Image.Image, ...] = ()
    """RGB frames of the clip at `fps`; empty unless the modality is video."""
    fps: int = CLIP_FPS
    """Frames a second of the clip."""
    preamble: str = ""
    """The table that a text scene asks about: lines of text before the first question."""
    asked_first: bool = False
    """The first question stands in front of what it asks about."""
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """Type of the first question; the scene's only one in the held-out split."""
        return self.questions[0].task

    @property
    def answers(self) -> tuple[str, ...]:
        """Right answer of each question, in order."""
        return tuple(question.answer for question in self.questions)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """OpenAI-style messages: the media (labelled where there are several) and the first question, then turns."""
        shown: list[dict[str, str]] = []
        if self.frames:
            shown.append({"type": "video"})
        for number, _ in enumerate(self.images, start=1):
            if len(self.images) > 1:
                shown.append({"type": "text", "text": f"Image-{number}: "})
            shown.append({"type": "image"})
            if len(self.images) > 1:
                shown.append({"type": "text", "text": "\n"})
        if self.preamble:
            shown.append({"type": "text", "text": self.preamble})
        turns: list[dict[str, Any]] = []
        for number, question in enumerate(self.questions):
            asked = {"type": "text", "text": question.text}
            content = [*(shown if number == 0 else []), asked]
            if number == 0 and self.asked_first:
                content = [asked, *shown]
            turns.append({"role": "user", "content": content})
            turns.append({"role": "assistant", "content": question.answer})
        return turns


def generate(kind: str, *, seed: int, split: Split, index: int) -> Scene:
    """Draw scene number `index` of a split.

    `kind` is a modality, `pair` or `board` (a training scene: a random layout with several questions) or the name of a
    task in TASKS or BOARDS (a held-out scene with that one question). Any kind may be drawn in any split.
    """
    tasks, trained, modality = TASKS | BOARDS, (*MODALITIES, PAIR, BOARD), modality_of(kind)
    if kind not in tasks and kind not in trained:
        raise ValueError(f"unknown kind {kind!r}; expected one of {', '.join(trained)}, or a task ({', '.join(tasks)})")
    if split not in ("train", "test"):
        raise ValueError(f"unknown split {split!r}; expected 'train' or 'test'")
    rng = np.random.default_rng([seed, zlib.crc32(f"{split}/{kind}".encode()), index])
    preamble, layout, questions = (_train if kind in trained else _single)(kind, rng, split == "test")
    drawn = tuple(layout.images())
    dark = kind in trained and bool(drawn) and rng.random() < DARK_SHARE
    if dark:
        drawn = tuple(draw.canvas(image.width, image.height, 0) for image in drawn)
    video = modality == "video"
    meta = {
        "modality": modality,
        "tasks": [question.task for question in questions],
        "answers": [question.answer for question in questions],
        "split": split,
        "seed": seed,
        "index": index,
    } | ({"dark": True} if dark else {})
    if kind in tasks:
        meta |= {"task": kind, "chance": tasks[kind].chance, "guess": tasks[kind].guess}
    return Scene(
        key=f"{kind}-{index:06d}",
        modality=modality,
        questions=tuple(questions),
        images=() if video else drawn,
        frames=drawn if video else (),
        preamble=preamble,
        asked_first=kind == "cell_before" or (kind == BOARD and bool(rng.integers(2))),
        meta=meta,
    )


def modality_of(kind: str) -> str:
    """Of the scenes of a kind: a modality, `board` or a task."""
    tasks = TASKS | BOARDS
    return tasks[kind].modality if kind in tasks else "image" if kind in (PAIR, BOARD) else kind


def held_out(layout: Layout) -> bool:
    """Whether a layout is set aside for the held-out split, from a digest of its parameters."""
    digest = hashlib.blake2b(repr(layout).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % HELD_OUT_SHARE == 0


def _draw(sample: Callable[[], Layout], side: bool) -> Any:
    """Redraw until the layout lies on its split's side."""
    for _ in range(1000):
        if held_out(layout := sample()) == side:
            return layout
    raise RuntimeError("no layout of this kind lies on the wanted side of the split; it has too few different ones")


def _train(kind: str, rng: np.random.Generator, side: bool) -> tuple[str, Layout, list[Question]]:
    """A layout of this modality with several questions: (text before them, layout, questions)."""
    layout: Any
    part = rng.random()
    if kind == "text":
        if part < 0.5:
            layout = _draw(lambda: Table.sample(rng, min(4, int(rng.integers(2, 6)))), side)
            kinds = ["favourite"] if part < 0.1 else ["lookup"] if part < 0.3 else Table.kinds
            return layout.rows, layout, _turns(layout, rng, kinds)
        rules = [_draw(lambda: Rule.sample(rng, pick(rng, Rule.kinds)), side) for _ in range(4)]
        return "", rules[0], [rule.ask(rule.kind, rng) for rule in rules]
    if kind == PAIR:
        layout = _draw(lambda: Pair.sample(rng), side)
        return "", layout, _turns(layout, rng, layout.kinds)
    if kind == BOARD:
        layout = _draw(lambda: Board.sample(rng, new=False), side)
        return "", layout, layout.turns(rng)
    if kind == "image":
        if part < 0.08:
            layout = _draw(lambda: Single.sample(rng), side)
        elif part < 0.21:
            layout = _draw(lambda: Portrait.sample(rng), side)
        elif part < 0.5:
            layout = _draw(lambda: Crowd.sample(rng), side)
        else:
            layout = _draw(lambda: Number.sample(rng), side)
        return "", layout, _turns(layout, rng, layout.kinds)
    if kind == "multi_image":
        if part < 0.4:
            same_colour, same_shape = bool(rng.integers(2)), bool(rng.integers(2))
            skew = part < 0.2
            layout = _draw(lambda: Album.sample(rng, 2, same_colour, same_shape, skew), side)
            lists = ["list_colours", "list_shapes"] if bool(rng.integers(2)) else []
            return "", layout, _turns(layout, rng, ["same_colour", "same_shape", *lists])
        layout = _draw(lambda: Album.sample(rng, int(rng.integers(2, 4)), False, False), side)
        kinds = ["favourite"] if part < 0.525 else ["which_image"] if part < 0.65 else Album.kinds
        return "", layout, _turns(layout, rng, kinds)
    if part < 0.72:
        layout = _draw(lambda: Motion.sample(rng), side)
    else:
        layout = _draw(lambda: Lights.sample(rng), side)
    return "", layout, _turns(layout, rng, layout.kinds)


def _turns(layout: Layout, rng: np.random.Generator, kinds: Sequence[str]) -> list[Question]:
    """One question of each of `kinds`, in random order."""
    return [layout.ask(kinds[int(i)], rng) for i in rng.permutation(len(kinds))]


def _single(kind: str, rng: np.random.Generator, side: bool) -> tuple[str, Layout, list[Question]]:
    """A layout with exactly the one question of this task."""
    if kind in Rule.kinds:
        rule = _draw(lambda: Rule.sample(rng, kind), side)
        return "", rule, [rule.ask(kind, rng)]
    if kind == "lookup":
        table = _draw(lambda: Table.sample(rng, 4), side)
        return table.rows, table, [table.ask(kind, rng)]
    if kind in ("same_colour", "same_shape"):
        same, other = bool(rng.integers(2)), bool(rng.integers(2))
        flags = (same, other) if kind == "same_colour" else (other, same)
        album = _draw(lambda: Album.sample(rng, 2, *flags), side)
        return "", album, [album.ask(kind, rng)]
    if kind in BOARDS:
        board = _draw(lambda: Board.sample(rng, new=kind == "cell_new"), side)
        return "", board, [replace(board.ask(kind.removesuffix("_before").removesuffix("_new"), rng), task=kind)]
    samplers: dict[str, Callable[[], Layout]] = {
        "position": lambda: Single.sample(rng),
        "colour": lambda: Single.sample(rng),
        "shape": lambda: Portrait.sample(rng),
        "binding": lambda: Pair.sample(rng),
        "count": lambda: Crowd.sample(rng),
        "number": lambda: Number.sample(rng),
        "which_image": lambda: Album.sample(rng, 2, False, False),
        "which_of_three": lambda: Album.sample(rng, 3, False, False),
        "image_colour": lambda: Album.sample(rng, 3, False, False),
        "motion": lambda: Motion.sample(rng),
        "first_colour": lambda: Lights.sample(rng),
    }
    layout = _draw(samplers[kind], side)
    return "", layout, [layout.ask(kind, rng)]
