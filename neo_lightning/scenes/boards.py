"""Boards: pictures of 4 x 4 to 8 x 8 visual tokens with a few shapes, one in a cell, asked by row and column.

    row 1   .      .     red    .
    row 2   .      .      .     .        a cell is a visual token (32 x 32 pixels), most are empty;
    row 3  blue    .      .    white     five of the six colours are there, each once
    row 4   .      .    green   .

In the demo's pictures of 2 x 2 and 3 x 3 tokens a one-dimensional index names row and column; here it does not, since
the boards have many widths. So these are for comparing what tells a model where a token lies.
Boards of the sizes in `NEW` are never trained on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
from PIL import Image

from neo_lightning.scenes import draw
from neo_lightning.scenes.tasks import COLOURS, SHAPES, Question, distinct, pick

CELL = 32
"""Pixels: one visual token."""
SIDES = (4, 5, 6, 7, 8)
NEW = ((4, 7), (5, 8), (6, 6), (7, 4), (8, 5))
"""Rows and columns of boards that are held out; each number of rows and of columns is known from other boards."""
OLD = tuple((rows, columns) for rows in SIDES for columns in SIDES if (rows, columns) not in NEW)
SHOWN = 5


@dataclass(frozen=True)
class Board:
    """Shapes of different colours in different cells."""

    kinds: ClassVar[tuple[str, ...]] = ("cell", "where", "shape_of", "same_row", "same_column", "nearest", "in_row")
    rows: int
    columns: int
    grey: int
    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]
    """Row and column of each, from 0."""
    radius: int

    @classmethod
    def sample(cls, rng: np.random.Generator, *, new: bool) -> Board:
        """A board on which every kind of question has every answer; of a size that is held out, or of another."""
        sizes = NEW if new else OLD
        while True:
            rows, columns = sizes[int(rng.integers(len(sizes)))]
            drawn = rng.permutation(rows * columns)[:SHOWN]
            board = cls(
                rows,
                columns,
                int(rng.integers(0, 70)),
                distinct(rng, COLOURS, SHOWN),
                tuple(pick(rng, SHAPES) for _ in range(SHOWN)),
                tuple((int(i) // columns, int(i) % columns) for i in drawn),
                int(rng.integers(11, 15)),
            )
            columns_shared = any(a[1] == b[1] for a, b in combinations(board.cells, 2))
            if columns_shared and {0, 1, 2} <= set(board._counts()) and board._with_nearest():
                return board

    def images(self) -> list[Image.Image]:
        image = draw.canvas(CELL * self.columns, CELL * self.rows, self.grey)
        for colour, shape, (row, column) in zip(self.colours, self.shapes, self.cells, strict=True):
            x, y = CELL * column + CELL // 2, CELL * row + CELL // 2
            draw.draw_shape(image, shape, colour, x, y, self.radius)
        return [image]

    def turns(self, rng: np.random.Generator) -> list[Question]:
        """A conversation about one thing of all shapes, or about what lies beside what.

        No turn holds the answer to a later one, but that it is none of those named before: after a list of all rows the
        rest could be read from the text.
        """
        order = [int(i) for i in rng.permutation(SHOWN)]
        part = rng.random()
        if part < 0.75:
            kind = "cell" if part < 0.25 else "where" if part < 0.5 else "shape_of"
            return [self._about(kind, i) for i in order]
        kinds = ("same_row", "same_column", "nearest", "in_row")
        return [self.ask(kinds[int(i)], rng) for i in rng.permutation(len(kinds))]

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        """Answers of yes and no, and counts, are even; `cell` asks for one that is not empty."""
        if kind == "same_row":
            return self._same(kind, 0, rng)
        if kind == "same_column":
            return self._same(kind, 1, rng)
        if kind == "nearest":
            a, b = self._with_nearest()[int(rng.integers(len(self._with_nearest())))]
            return Question(task=kind, text=f"Which is nearest to {self.colours[a]}?", answer=self.colours[b])
        if kind == "in_row":
            wanted = int(rng.integers(3))
            there = [number for number, count in enumerate(self._counts()) if count == wanted]
            asked = there[int(rng.integers(len(there)))]
            return Question(task=kind, text=f"How many are in row {asked + 1}?", answer=str(wanted))
        return self._about(kind, int(rng.integers(SHOWN)))

    def _about(self, kind: str, i: int) -> Question:
        """One shape's colour, place or shape."""
        row, column = self.cells[i]
        text, answer = {
            "cell": (f"What is at row {row + 1} column {column + 1}?", self.colours[i]),
            "where": (f"Where is {self.colours[i]}?", f"row {row + 1} column {column + 1}"),
            "shape_of": (f"What shape is {self.colours[i]}?", self.shapes[i]),
        }[kind]
        return Question(task=kind, text=text, answer=answer)

    def _counts(self) -> list[int]:
        """Shapes in each row."""
        found = Counter(row for row, _ in self.cells)
        return [found[row] for row in range(self.rows)]

    def _with_nearest(self) -> list[tuple[int, int]]:
        """Numbers of those that have one nearest neighbour, and of that; by distances squared."""
        found = []
        for i, (row, column) in enumerate(self.cells):
            ranked = sorted(((row - r) ** 2 + (column - c) ** 2, k) for k, (r, c) in enumerate(self.cells) if k != i)
            if ranked[0][0] < ranked[1][0]:
                found.append((i, ranked[0][1]))
        return found

    def _same(self, kind: str, axis: int, rng: np.random.Generator) -> Question:
        same = bool(rng.integers(2))
        pairs = [
            (i, k) for i, k in combinations(range(SHOWN), 2) if (self.cells[i][axis] == self.cells[k][axis]) == same
        ]
        i, k = (int(x) for x in rng.permutation(pairs[int(rng.integers(len(pairs)))]))
        text = f"Are {self.colours[i]} and {self.colours[k]} in the same {'column' if axis else 'row'}?"
        return Question(task=kind, text=text, answer="yes" if same else "no")
