"""A benchmark as data: how a row becomes a question, how the model is asked, and what grades the answer."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, Literal

from ...data.facts import SampleError
from ...types import PixelBudget, VideoBudget
from ..item import Item
from ..metrics import METRICS
from ..readers.row import Row, conversation_item

Group = Literal["knowledge", "general", "hallucination", "ocr", "several", "video", "spatial", "own"]
GROUPS: dict[Group, str] = {
    "knowledge": "Knowledge",
    "general": "General",
    "hallucination": "Hallucination",
    "ocr": "Text in pictures",
    "several": "Several images",
    "video": "Clips",
    "spatial": "Space",
    "own": "Own",
}
"""Group -> heading, in the order of tables."""

SAMPLED: Mapping[str, float] = {
    "temperature": 0.6,
    "top_p": 0.95,
    "top_k": 20,
    "repetition_penalty": 1.05,
    "max_new_tokens": 16384,
}
"""The authors' evaluation of images and clips."""
LIKELIEST: Mapping[str, float] = {"temperature": 0.0, "repetition_penalty": 1.0, "max_new_tokens": 4096}
"""The authors' spatial evaluation, and `--preset greedy`."""

DIRECTLY = "\nAnswer with the option's letter from the given choices directly."
BRIEFLY = "\nAnswer the question using a single word or phrase."


@dataclass(frozen=True, kw_only=True)
class Words:
    """How a row becomes the user's turn: templates with {question}, {hint}, {options}, and {media} where the pictures
    are not in front."""

    choice: str = "{hint}{question}{options}" + DIRECTLY
    """Of a row with options."""
    open: str = "{question}"
    """Of a row without."""
    clip: str = ""
    """Of a row with a clip, where it differs."""
    by_category: Mapping[str, str] = field(default_factory=dict)
    """Category -> template, where it differs."""
    option: str = "\n{letter}. {text}"
    """One option; they follow each other."""
    one: str = "{image}\n"
    """The only image of a row, and a clip."""
    several: str = "Image-{number}: {image}\n"
    """Each of several images."""
    behind: bool = False
    """Several images follow the text."""
    inline: bool = False
    """A row's image stands where its question says `<image 1>`, else behind the text; {media} is the clip alone."""


@dataclass(frozen=True, kw_only=True)
class Frames:
    """A clip shown as numbered images, under the image budget: frames from its first to its last, evenly spread."""

    count: int
    label: str = "Frame-{number}: {image}\n"


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark. Everything has a default but its name: a user's own takes a few lines."""

    name: str
    """As on the command line."""
    title: str = ""
    """As papers write it."""
    group: Group = "own"
    metric: str = "exact"
    """Of `metrics.METRICS`."""
    words: Words = field(default_factory=Words)
    system: str = ""
    """System prompt; without one there is no system turn."""
    image: PixelBudget | None = None
    """None: as the model's folder says."""
    video: VideoBudget | None = None
    """Likewise."""
    frames: Frames | None = None
    """Clips are shown as images."""
    enlarge: int = 1
    """Factor of the first image's sides before it is fitted into the budget."""
    decoding: Mapping[str, float] = field(default_factory=lambda: dict(LIKELIEST))
    """Of `--preset authors`; names as in `answering.engine.Decoding`."""
    files: tuple[str, ...] = ()
    """Names of its data files without their endings, the first that is there counts; `A+B` is A and, behind it, B."""
    only: Mapping[str, str] = field(default_factory=dict)
    """Column -> value: rows with another value are not the benchmark's, such as those of a development split."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Field (key, question, answer, options, category, hint) -> column, where the name is another one than usual."""
    counted: bool = False
    """The right answer is the option's place, counted from 0, also where an option is a number."""
    source: str = ""
    """Where these settings come from, and in what they differ from it."""

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"benchmark {self.name!r}: no metric {self.metric!r}; known: {', '.join(METRICS)}")
        if unknown := [name for name in self.columns if name not in COLUMNS]:
            raise ValueError(f"benchmark {self.name!r}: no field {unknown[0]!r}; known: {', '.join(COLUMNS)}")

    def has(self, row: Row) -> bool:
        """Whether a row belongs to the benchmark (`only`); one that does not say does."""
        return all(row.fields.get(column, value) == value for column, value in self.only.items())

    def item(self, row: Row, number: int) -> Item:
        """The question that a row asks.

        Raises:
            SampleError: it lacks the question or the answer, or its options cannot be read.
        """
        if row.messages is not None:
            return conversation_item(row, number)
        question = self._find(row, "question")
        answer = self._find(row, "answer")
        if question is None or answer is None:
            missing = "question" if question is None else "answer"
            names = [self.columns[missing]] if missing in self.columns else list(COLUMNS[missing])
            raise SampleError(f"no {missing}: looked for {', '.join(names)}; there are {', '.join(row.fields)}")
        options = _options(row, self.columns.get("options"))
        return Item(
            key=row.key,
            number=number,
            where=row.where,
            question=_text(question),
            answers=_answers(answer, options, counted=self.counted),
            options=options,
            categories=self._categories(row),
            fields={name: _text(value) for name, value in row.fields.items() if is_short(value)},
            media=row.media,
        )

    def _find(self, row: Row, field_name: str) -> Any:
        names = (self.columns[field_name],) if field_name in self.columns else COLUMNS[field_name]
        return next((row.fields[name] for name in names if row.fields.get(name) not in (None, "")), None)

    def _categories(self, row: Row) -> tuple[str, ...]:
        found = self._find(row, "category")
        if found is None:
            return ()
        names = found if isinstance(found, list) else _text(found).split(",") if self.metric == "yes_no" else [found]
        return tuple(_text(name).strip() for name in names)


COLUMNS: dict[str, tuple[str, ...]] = {
    "key": ("index", "question_id", "id"),
    "question": ("question",),
    "answer": ("answer", "answers"),
    "options": ("options", "candidates", "choices"),
    "category": ("category", "task_type", "question_type", "task"),
    "hint": ("hint",),
}
"""Field -> columns in which it is looked for, in this order."""

_LONGEST = 4096
"""Characters of a column that an item keeps: pictures are longer."""


def is_short(value: Any) -> bool:
    """Whether a column's value is kept with the item: a short text or a number."""
    return isinstance(value, int | float | bool) or (isinstance(value, str) and len(value) <= _LONGEST)


def _text(value: Any) -> str:
    """A cell as text; 3.0 is 3, as tables that know only floating point have whole numbers."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else str(value)


def _list(value: Any) -> list[Any] | None:
    """A list, or the text of one as Python or JSON write it; None where it is neither."""
    if isinstance(value, list | tuple):
        return list(value)
    text = value.strip() if isinstance(value, str) else ""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return list(found) if isinstance(found, list | tuple) else None


def _options(row: Row, column: str | None) -> dict[str, str]:
    """Columns A, B, ..., or a list, or lines that each begin with their letter."""
    if column is None:
        lettered = {
            letter: row.fields[letter] for letter in ascii_uppercase if row.fields.get(letter) not in (None, "")
        }
        if lettered:
            return {letter: _text(value) for letter, value in lettered.items()}
    names = COLUMNS["options"] if column is None else (column,)
    value = next((row.fields[name] for name in names if row.fields.get(name) not in (None, "", [])), None)
    if value is None:
        return {}
    texts = _list(value)
    if texts is None:
        texts = [line for line in _text(value).splitlines() if line.strip()]
        if len(texts) < 2 or not all(_lettered(line) for line in texts):
            raise SampleError(f"options are neither a list nor lines such as `A. red`: {_text(value)[:80]!r}")
    if len(texts) > len(ascii_uppercase):
        raise SampleError(f"{len(texts)} options; there are letters for {len(ascii_uppercase)}")
    found = {letter: _text(text).strip() for letter, text in zip(ascii_uppercase, texts, strict=False)}
    if all(_lettered(text) == letter for letter, text in found.items()):
        return {letter: text[2:].strip() for letter, text in found.items()}
    return found


def _lettered(text: Any) -> str:
    """The letter that a text such as `A. red` begins with; empty if none."""
    line = _text(text).strip()
    return line[0] if len(line) > 1 and line[0] in ascii_uppercase and line[1] in ".:)" else ""


def _answers(value: Any, options: Mapping[str, str], *, counted: bool) -> tuple[str, ...]:
    """The right answers; of options the letter, also where the answer is written out or counted from 0."""
    listed = _list(value)
    answers = tuple(_text(part).strip() for part in (listed if listed is not None else [value]))
    if not answers:
        raise SampleError("the list of right answers is empty")
    if not options:
        return answers
    return tuple(_at_place(answer, options) if counted else _letter(answer, options) for answer in answers)


def _at_place(answer: str, options: Mapping[str, str]) -> str:
    if answer.isdecimal() and int(answer) < len(options):
        return ascii_uppercase[int(answer)]
    raise SampleError(f"the right answer {answer[:60]!r} is no place among {len(options)} options, counted from 0")


def _letter(answer: str, options: Mapping[str, str]) -> str:
    if answer in options:
        return answer
    same = [letter for letter, text in options.items() if text == answer]
    if same:
        return same[0]
    bare = answer.strip("()").strip()
    if bare in options or _lettered(answer) in options:
        return bare if bare in options else _lettered(answer)
    if answer.isdecimal() and int(answer) < len(options):
        return ascii_uppercase[int(answer)]
    raise SampleError(f"the right answer {answer[:60]!r} is none of the options {', '.join(options)}")
