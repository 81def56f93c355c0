"""Text-only questions: rules over letters, and look-ups that teach the text side what image retrieval needs later.

The look-ups are word-for-word twins of the questions about several images and clips ("Image-1: red ..."), so that a
text warm-up builds the copying heads on cheap tokens before any picture is seen.
"""

from __future__ import annotations

import numpy as np

from .tasks import COLOURS, SHAPES, Question, distinct, pick

LETTERS = tuple("abcdefghijklmnopqrst")
KINDS = ("copy", "reverse", "pattern", "lookup")


def ask_text(kind: str, rng: np.random.Generator) -> Question:
    """Ask one text-only question. `kind` is one of KINDS."""
    if kind == "copy":
        letters = " ".join(pick(rng, LETTERS) for _ in range(int(rng.integers(3, 7))))
        return Question(task=kind, text=f"Copy: {letters}", answer=letters)
    if kind == "reverse":
        letters = [pick(rng, LETTERS) for _ in range(int(rng.integers(3, 6)))]
        return Question(task=kind, text=f"Reverse: {' '.join(letters)}", answer=" ".join(reversed(letters)))
    if kind == "pattern":
        unit = distinct(rng, LETTERS, int(rng.integers(2, 4)))
        length = len(unit) * 2 + int(rng.integers(0, len(unit)))
        shown = [unit[i % len(unit)] for i in range(length)]
        return Question(task=kind, text=f"Next: {' '.join(shown)}", answer=unit[length % len(unit)])
    if kind == "lookup":
        return _lookup(rng)
    raise ValueError(f"unknown text task {kind!r}; expected one of {', '.join(KINDS)}")


def _lookup(rng: np.random.Generator) -> Question:
    """A row of labelled words, asked by label or by content: the twin of retrieval over images."""
    words = COLOURS if rng.integers(4) else SHAPES
    count = int(rng.integers(2, 5))
    values = distinct(rng, words, count)
    rows = "\n".join(f"Image-{i + 1}: {value}" for i, value in enumerate(values))
    i = int(rng.integers(count))
    form = int(rng.integers(4))
    last = bool(rng.integers(2))
    text, answer = (
        (f"Which image is {values[i]}?", str(i + 1)),
        (f"What is image {i + 1}?", values[i]),
        (f"Which came {'last' if last else 'first'}?", values[-1 if last else 0]),
        ("List them in order.", " ".join(values)),
    )[form]
    return Question(task="lookup", text=f"{rows}\n{text}", answer=answer)
