"""Question types: what is asked, in which modality, and what a guess is worth.

No question's wording tells its answer: a model that sees blank pixels can only guess (`Task.chance`), and one that
sees what is there but cannot look up where still guesses (`Task.guess`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from PIL import Image

from neo_lightning.scenes import draw

COLOURS = tuple(draw.COLOURS)
SHAPES = draw.SHAPES


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question type."""

    name: str
    modality: str
    """text | image | multi_image | video."""
    chance: float
    """Expected exact match (0-1) of the best guess that sees no pixels."""
    guess: float
    """The same for a guess among what is visible, without looking up the right one: what retrieval has to beat."""


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="position", modality="image", chance=1 / 4, guess=1 / 4),
        Task(name="colour", modality="image", chance=1 / 6, guess=1 / 6),
        Task(name="count", modality="image", chance=1 / 4, guess=1 / 4),
        Task(name="number", modality="image", chance=1 / 90, guess=1 / 90),
        Task(name="shape", modality="image", chance=1 / 4, guess=1 / 4),
        Task(name="binding", modality="image", chance=1 / 6, guess=1 / 2),
        Task(name="same_colour", modality="multi_image", chance=1 / 2, guess=1 / 2),
        Task(name="same_shape", modality="multi_image", chance=1 / 2, guess=1 / 2),
        Task(name="which_image", modality="multi_image", chance=1 / 2, guess=1 / 2),
        Task(name="which_of_three", modality="multi_image", chance=1 / 3, guess=1 / 3),
        Task(name="image_colour", modality="multi_image", chance=1 / 6, guess=1 / 3),
        Task(name="motion", modality="video", chance=1 / 4, guess=1 / 4),
        Task(name="first_colour", modality="video", chance=1 / 6, guess=1 / 4),
        Task(name="copy", modality="text", chance=0.0, guess=0.0),
        Task(name="reverse", modality="text", chance=0.0, guess=0.0),
        Task(name="pattern", modality="text", chance=5 / 12, guess=5 / 12),
        Task(name="lookup", modality="text", chance=1 / 4, guess=1 / 4),
    )
}
"""The demo's held-out question types. Training has a few more (lists, captions), which only help to learn these."""
BOARDS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="cell", modality="image", chance=1 / 6, guess=1 / 5),
        Task(name="cell_before", modality="image", chance=1 / 6, guess=1 / 5),
        Task(name="cell_new", modality="image", chance=1 / 6, guess=1 / 5),
        Task(name="where", modality="image", chance=1 / 32, guess=1 / 32),
        Task(name="shape_of", modality="image", chance=1 / 4, guess=1 / 3),
        Task(name="same_row", modality="image", chance=1 / 2, guess=1 / 2),
        Task(name="same_column", modality="image", chance=1 / 2, guess=1 / 2),
        Task(name="nearest", modality="image", chance=1 / 5, guess=1 / 4),
        Task(name="in_row", modality="image", chance=1 / 3, guess=1 / 3),
    )
}
"""Those about boards (`scenes.boards`): `cell` asked in front of the picture, and on boards of new sizes, too."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One turn: what is asked and the only right answer."""

    task: str
    text: str
    answer: str


def pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Draw one of `options`."""
    return options[int(rng.integers(len(options)))]


def distinct(rng: np.random.Generator, options: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Draw `count` different ones of `options`, in random order."""
    return tuple(options[int(i)] for i in rng.permutation(len(options))[:count])


def skewed(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    """Draw one of `options`, each 0.6 times as likely as the one in front of it."""
    return options[(int(rng.geometric(0.4)) - 1) % len(options)]


def favourite(values: tuple[str, ...], options: tuple[str, ...]) -> int:
    """Which of `values` stands first among `options`."""
    return min(range(len(values)), key=lambda i: options.index(values[i]))


def find(values: tuple[str, ...], rng: np.random.Generator) -> tuple[str, str]:
    """A dense look-up by content: every value in random order, each followed at once by its image's number.

    No blank stands between them, so that the number's place already holds the word to look up.
    """
    order = [int(i) for i in rng.permutation(len(values))]
    text = f"Find {', '.join(values[i] for i in order)}."
    return text, " ".join(f"{values[i]}{i + 1}" for i in order)


class Layout(Protocol):
    """What every layout offers. `kinds` are what a training scene is asked, in random order; `ask` may know more."""

    kinds: ClassVar[tuple[str, ...]]

    def images(self) -> list[Image.Image]:
        """Draw: the images in reading order, or the frames of the clip."""
        ...

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        """Ask one question of this kind."""
        ...
