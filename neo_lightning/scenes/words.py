"""Text-only layouts: rules over letters, and tables that teach the text side what retrieval from images needs later.

A table is the word-for-word twin of an album of images ("Image-1: red"), so that a text warm-up builds the copying
heads on cheap tokens before any picture is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from neo_lightning.scenes.tasks import COLOURS, SHAPES, Question, distinct, favourite, find, pick

LETTERS = tuple("abcdefghijklmnopqrst")


@dataclass(frozen=True)
class Rule:
    """One question over a row of letters."""

    kinds: ClassVar[tuple[str, ...]] = ("copy", "reverse", "pattern")
    kind: str
    letters: tuple[str, ...]
    answer: str

    @classmethod
    def sample(cls, rng: np.random.Generator, kind: str) -> Rule:
        if kind == "pattern":
            unit = distinct(rng, LETTERS, int(rng.integers(2, 4)))
            length = len(unit) * 2 + int(rng.integers(len(unit)))
            return cls(kind, tuple(unit[i % len(unit)] for i in range(length)), unit[length % len(unit)])
        letters = tuple(pick(rng, LETTERS) for _ in range(int(rng.integers(3, 7))))
        return cls(kind, letters, " ".join(letters if kind == "copy" else reversed(letters)))

    def images(self) -> list[Image.Image]:
        return []

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        word = {"copy": "Copy", "reverse": "Reverse", "pattern": "Next"}[self.kind]
        return Question(task=self.kind, text=f"{word}: {' '.join(self.letters)}", answer=self.answer)


@dataclass(frozen=True)
class Table:
    """Labelled words, asked by label and by content."""

    kinds: ClassVar[tuple[str, ...]] = ("lookup", "favourite", "find", "label", "list", "first")
    values: tuple[str, ...]

    @classmethod
    def sample(cls, rng: np.random.Generator, count: int) -> Table:
        return cls(distinct(rng, COLOURS if rng.integers(4) else SHAPES, count))

    def images(self) -> list[Image.Image]:
        return []

    @property
    def rows(self) -> str:
        """The table as text, one row a line; it stands before the first question."""
        return "".join(f"Image-{i + 1}: {value}\n" for i, value in enumerate(self.values))

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        i = int(rng.integers(len(self.values)))
        f = favourite(self.values, COLOURS + SHAPES)
        last = bool(rng.integers(2))
        text, answer = {
            "favourite": (f"Which image is {self.values[f]}?", str(f + 1)),
            "lookup": (f"Which image is {self.values[i]}?", str(i + 1)),
            "label": (f"What is image {i + 1}?", self.values[i]),
            "find": find(self.values, rng),
            "list": ("List them in order.", " ".join(self.values)),
            "first": (f"Which came {'last' if last else 'first'}?", self.values[-1 if last else 0]),
        }[kind]
        return Question(task=kind, text=text, answer=answer)
