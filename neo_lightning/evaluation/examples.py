"""Which answered questions a report shows: a few of each type, and its first mistake where there is one.

Chosen while the answers stream by, so that no picture is kept that is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from torch import Tensor

from .metrics import exact_match
from .questions import Question

EXAMPLES_RULE = (
    "The first held-out question of each type, then the first one answered wrongly, where there is one: "
    "so mistakes are shown more often than they happen."
)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One answered question."""

    asked: Question
    answer: str
    blanked_answer: str | None
    """The answer with every pixel black; None where that was not asked."""
    attention: Tensor | None = None
    """[layers, heads, N]: where each head looks before the answer begins (`model.attention_maps`), if asked."""

    @property
    def correct(self) -> bool:
        """Whether the answer is exactly right."""
        return exact_match(self.answer, self.asked.truth)


class Gallery:
    """Keeps what may be shown of each type.

    Args:
        pictures: number of examples with pictures to end up with; of text-only types one or two each are kept.
    """

    def __init__(self, pictures: int) -> None:
        self.pictures = pictures
        self._first: dict[str, list[Example]] = {}
        self._wrong: dict[str, Example] = {}

    def add(self, example: Example) -> None:
        """Look at one answered question and keep it if it may be shown."""
        first = self._first.setdefault(example.asked.kind, [])
        if len(first) < max(2, self.pictures):
            first.append(example)
        elif not example.correct:
            self._wrong.setdefault(example.asked.kind, example)

    def chosen(self) -> list[Example]:
        """The examples to show: pictured ones up to the wanted number, taken in turns over the types, then text."""
        queues = {name: list(self._queue(name)) for name in self._first}
        pictured = [queue for queue in queues.values() if queue[0].asked.patches.shape[0]]
        plain = [queue for queue in queues.values() if not queue[0].asked.patches.shape[0]]
        turns = [example for turn in zip_longest(*pictured) for example in turn if example is not None]
        order = {name: place for place, name in enumerate(queues)}
        shown = sorted(turns[: self.pictures], key=lambda example: order[example.asked.kind])
        return shown + [example for queue in plain for example in queue[:2]]

    def _queue(self, name: str) -> Iterator[Example]:
        """One type's examples by priority: the first, the first mistake, the rest."""
        first, *rest = self._first[name]
        candidates = [*rest, *([self._wrong[name]] if name in self._wrong else [])]
        mistake = next((example for example in candidates if not example.correct), None) if first.correct else None
        yield first
        if mistake is not None:
            yield mistake
        yield from (example for example in rest if example is not mistake)
