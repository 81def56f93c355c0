"""Layouts of pictures, albums and clips: random integers -> parameters -> pixels and questions about them.

A layout is a frozen dataclass of integers and strings. Its parameters decide its pixels, so whether a scene is held
out is decided from the parameters before anything is drawn (see `generate`). Every side is a multiple of 32 pixels (a
visual token), so no pixel budget resizes a scene: 4 tokens for a picture or frame of 64 x 64, 9 for 96 x 96.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from neo_lightning.scenes import draw
from neo_lightning.scenes.tasks import COLOURS, SHAPES, Question, distinct, favourite, find, pick, skewed

PLACES = ("top left", "top right", "bottom left", "bottom right")
DIRECTIONS = ("left", "right", "up", "down")
CLIP_FPS = 4
"""Frames a second of every clip; clips last two seconds, in four parts of half a second each."""
CLIP_FRAMES = 8


@dataclass(frozen=True)
class Single:
    """One large shape in one quadrant."""

    kinds: ClassVar[tuple[str, ...]] = ("position", "colour", "shape")
    side: int
    grey: int
    shape: str
    colour: str
    place: int
    dx: int
    dy: int
    radius: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Single:
        side = 96
        radius = int(rng.integers(side * 17 // 96, side * 22 // 96 + 1))
        slack = side // 4 - radius
        dx, dy = (int(v) for v in rng.integers(-slack, slack + 1, 2))
        return cls(
            side, int(rng.integers(0, 70)), pick(rng, SHAPES), pick(rng, COLOURS), int(rng.integers(4)), dx, dy, radius
        )

    def images(self) -> list[Image.Image]:
        image = draw.canvas(self.side, self.side, self.grey)
        x, y = draw.quadrant_centre(self.side, self.place, self.dx, self.dy)
        draw.draw_shape(image, self.shape, self.colour, x, y, self.radius)
        return [image]

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        text, answer = {
            "position": ("Where is it?", PLACES[self.place]),
            "colour": ("What colour is it?", self.colour),
            "shape": ("What shape is it?", self.shape),
        }[kind]
        return Question(task=kind, text=text, answer=answer)


@dataclass(frozen=True)
class Portrait:
    """One shape that fills a small picture."""

    kinds: ClassVar[tuple[str, ...]] = ("shape", "colour")
    grey: int
    shape: str
    colour: str
    dx: int
    dy: int
    radius: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Portrait:
        dx, dy = (int(v) for v in rng.integers(-4, 5, 2))
        return cls(int(rng.integers(0, 70)), pick(rng, SHAPES), pick(rng, COLOURS), dx, dy, int(rng.integers(19, 27)))

    def images(self) -> list[Image.Image]:
        image = draw.canvas(64, 64, self.grey)
        draw.draw_shape(image, self.shape, self.colour, 32 + self.dx, 32 + self.dy, self.radius)
        return [image]

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        if kind == "shape":
            return Question(task=kind, text="What shape is it?", answer=self.shape)
        return Question(task=kind, text="What colour is it?", answer=self.colour)


@dataclass(frozen=True)
class Pair:
    """Two different shapes of different colours in two quadrants."""

    kinds: ClassVar[tuple[str, ...]] = ("of_first", "of_second", "place_of")
    side: int
    grey: int
    shapes: tuple[str, str]
    colours: tuple[str, str]
    places: tuple[int, int]
    jitter: tuple[int, ...]
    radius: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Pair:
        side = 96
        radius = int(rng.integers(side * 17 // 96, side * 22 // 96 + 1))
        slack = side // 4 - radius
        first, second = sorted(int(p) for p in rng.permutation(4)[:2])
        a, b = distinct(rng, SHAPES, 2)
        c, d = distinct(rng, COLOURS, 2)
        jitter = tuple(int(v) for v in rng.integers(-slack, slack + 1, 4))
        return cls(side, int(rng.integers(0, 70)), (a, b), (c, d), (first, second), jitter, radius)

    def images(self) -> list[Image.Image]:
        image = draw.canvas(self.side, self.side, self.grey)
        for i in range(2):
            x, y = draw.quadrant_centre(self.side, self.places[i], self.jitter[2 * i], self.jitter[2 * i + 1])
            draw.draw_shape(image, self.shapes[i], self.colours[i], x, y, self.radius)
        return [image]

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        i = int(rng.integers(2))
        shape, colour, place = self.shapes[i], self.colours[i], PLACES[self.places[i]]
        text, answer = {
            "binding": (f"What colour is the {shape}?", colour),
            "of_first": (f"What colour is the {self.shapes[0]}?", self.colours[0]),
            "of_second": (f"What colour is the {self.shapes[1]}?", self.colours[1]),
            "place_of": (f"Where is the {colour} one?", place),
        }[kind]
        return Question(task=kind, text=text, answer=answer)


@dataclass(frozen=True)
class Crowd:
    """One to four equal shapes, one in a cell of a 3 x 3 grid."""

    kinds: ClassVar[tuple[str, ...]] = ("count",)
    side: int
    grey: int
    shape: str
    colour: str
    cells: tuple[int, ...]
    jitter: tuple[int, ...]
    radius: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Crowd:
        count = int(rng.integers(1, 5))
        cells = tuple(sorted(int(c) for c in rng.permutation(9)[:count]))
        jitter = tuple(int(v) for v in rng.integers(-3, 4, 2 * count))
        return cls(
            96, int(rng.integers(0, 70)), pick(rng, SHAPES), pick(rng, COLOURS), cells, jitter, int(rng.integers(9, 13))
        )

    def images(self) -> list[Image.Image]:
        image = draw.canvas(self.side, self.side, self.grey)
        cell = self.side // 3
        for i, place in enumerate(self.cells):
            x, y = cell // 2 + cell * (place % 3), cell // 2 + cell * (place // 3)
            draw.draw_shape(
                image, self.shape, self.colour, x + self.jitter[2 * i], y + self.jitter[2 * i + 1], self.radius
            )
        return [image]

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        return Question(task=kind, text="How many shapes are there?", answer=str(len(self.cells)))


@dataclass(frozen=True)
class Number:
    """A written two-digit number on a wide picture."""

    kinds: ClassVar[tuple[str, ...]] = ("number",)
    number: int
    grey: int
    colour: str
    dx: int
    dy: int
    size: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Number:
        dx, dy = (int(v) for v in rng.integers(-3, 4, 2))
        return cls(
            int(rng.integers(10, 100)), int(rng.integers(0, 70)), pick(rng, COLOURS), dx, dy, int(rng.integers(48, 53))
        )

    def images(self) -> list[Image.Image]:
        image = draw.canvas(96, 64, self.grey)
        draw.draw_text(image, str(self.number), self.colour, 48 + self.dx, 32 + self.dy, self.size)
        return [image]

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        return Question(task=kind, text="What number is it?", answer=str(self.number))


@dataclass(frozen=True)
class Album:
    """Two or three small images with one shape each."""

    kinds: ClassVar[tuple[str, ...]] = (
        "which_image",
        "favourite",
        "find_colours",
        "image_colour",
        "list_colours",
        "list_shapes",
    )
    greys: tuple[int, ...]
    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    jitter: tuple[int, ...]
    radius: int

    @classmethod
    def sample(
        cls, rng: np.random.Generator, count: int, same_colour: bool, same_shape: bool, skew: bool = False
    ) -> Album:
        """With `skew` what is the same is more often red, and more often a circle (see `generate`)."""
        shapes, colours = distinct(rng, SHAPES, count), distinct(rng, COLOURS, count)
        if same_shape:
            shapes = ((skewed(rng, SHAPES) if skew else shapes[0]),) * count
        if same_colour:
            colours = ((skewed(rng, COLOURS) if skew else colours[0]),) * count
        return cls(
            tuple(int(v) for v in rng.integers(0, 70, count)),
            shapes,
            colours,
            tuple(int(v) for v in rng.integers(-5, 6, 2 * count)),
            int(rng.integers(19, 26)),
        )

    def images(self) -> list[Image.Image]:
        images = []
        for i, grey in enumerate(self.greys):
            image = draw.canvas(64, 64, grey)
            draw.draw_shape(
                image,
                self.shapes[i],
                self.colours[i],
                32 + self.jitter[2 * i],
                32 + self.jitter[2 * i + 1],
                self.radius,
            )
            images.append(image)
        return images

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        i, f = int(rng.integers(len(self.colours))), favourite(self.colours, COLOURS)
        search = (f"Which image is {self.colours[i]}?", str(i + 1))
        text, answer = {
            "favourite": (f"Which image is {self.colours[f]}?", str(f + 1)),
            "which_image": search,
            "which_of_three": search,
            "image_colour": (f"What colour is image {i + 1}?", self.colours[i]),
            "find_colours": find(self.colours, rng),
            "list_colours": ("List the colours in order.", " ".join(self.colours)),
            "list_shapes": ("List the shapes in order.", " ".join(self.shapes)),
            "same_colour": ("Is the colour the same?", "yes" if self.colours[0] == self.colours[1] else "no"),
            "same_shape": ("Is the shape the same?", "yes" if self.shapes[0] == self.shapes[1] else "no"),
        }[kind]
        return Question(task=kind, text=text, answer=answer)


@dataclass(frozen=True)
class Motion:
    """A shape that crosses a small frame in two seconds."""

    kinds: ClassVar[tuple[str, ...]] = ("motion", "start", "end")
    direction: str
    grey: int
    shape: str
    colour: str
    across: int
    radius: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Motion:
        return cls(
            pick(rng, DIRECTIONS),
            int(rng.integers(0, 70)),
            pick(rng, SHAPES),
            pick(rng, COLOURS),
            int(rng.integers(20, 45)),
            int(rng.integers(9, 13)),
        )

    def images(self) -> list[Image.Image]:
        low, high, across = 12, 52, self.across
        start, stop = {
            "left": ((high, across), (low, across)),
            "right": ((low, across), (high, across)),
            "up": ((across, high), (across, low)),
            "down": ((across, low), (across, high)),
        }[self.direction]
        frames = []
        for x, y in draw.path(start, stop, CLIP_FRAMES):
            frame = draw.canvas(64, 64, self.grey)
            draw.draw_shape(frame, self.shape, self.colour, x, y, self.radius)
            frames.append(frame)
        return frames

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        edge = {"left": "left", "right": "right", "up": "top", "down": "bottom"}
        opposite = {"left": "right", "right": "left", "up": "bottom", "down": "top"}
        text, answer = {
            "motion": ("Which way does it move?", self.direction),
            "start": ("Where does it start?", opposite[self.direction]),
            "end": ("Where does it end?", edge[self.direction]),
        }[kind]
        return Question(task=kind, text=text, answer=answer)


@dataclass(frozen=True)
class Lights:
    """A clip of four parts of half a second; each shows a shape of another colour."""

    kinds: ClassVar[tuple[str, ...]] = ("first_colour", "order", "after")
    grey: int
    shape: str
    colours: tuple[str, ...]
    x: int
    y: int
    radius: int

    @classmethod
    def sample(cls, rng: np.random.Generator) -> Lights:
        x, y = (int(v) for v in rng.integers(27, 38, 2))
        return cls(
            int(rng.integers(0, 70)), pick(rng, SHAPES), distinct(rng, COLOURS, 4), x, y, int(rng.integers(19, 26))
        )

    def images(self) -> list[Image.Image]:
        frames = []
        for number in range(CLIP_FRAMES):
            frame = draw.canvas(64, 64, self.grey)
            draw.draw_shape(frame, self.shape, self.colours[number * 4 // CLIP_FRAMES], self.x, self.y, self.radius)
            frames.append(frame)
        return frames

    def ask(self, kind: str, rng: np.random.Generator) -> Question:
        i = int(rng.integers(3))
        last = bool(rng.integers(2))
        text, answer = {
            "first_colour": (f"Which colour came {'last' if last else 'first'}?", self.colours[-1 if last else 0]),
            "order": ("List the colours in order.", " ".join(self.colours)),
            "after": (f"Which colour came after {self.colours[i]}?", self.colours[i + 1]),
        }[kind]
        return Question(task=kind, text=text, answer=answer)
