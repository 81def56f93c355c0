"""What a model is shown of a conversation, known before anything is decoded: sizes, tokens, and the times of frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..data.media.video import choose_moments
from ..data.text.answers import ANSWER_TOKENS, mark_answers
from ..data.text.prompt import PromptPlan, plan_prompt
from ..model.prompt import Prompt
from ..types import Message
from .engine import Engine


@dataclass(frozen=True, kw_only=True)
class SeenMedium:
    """An image or clip as the model is shown it."""

    kind: Literal["image", "video"]
    name: str
    width: int
    """Pixels of the file as shown: turned, and of square pixels."""
    height: int
    shown_width: int
    """Pixels after resizing; of a clip, of each frame."""
    shown_height: int
    rows: int
    """Of visual tokens; of a clip, in each frame."""
    columns: int
    tokens: int
    """Visual tokens, of all frames together."""
    seconds: tuple[float, ...] = ()
    """Of a clip: the moments that are shown, from its first frame."""
    duration: float = 0.0
    """Of a clip, in seconds."""


def plan(engine: Engine, messages: Sequence[Message]) -> PromptPlan:
    """A conversation under the engine's budgets, from the headers of its media.

    Raises:
        SampleError: a medium whose header cannot be used; names it.
    """
    marked = mark_answers(messages, tuple(ANSWER_TOKENS))
    return plan_prompt(marked, engine.tokenizer, engine.answering.image, engine.answering.video)


def read(planned: PromptPlan, check: Callable[[], None] = lambda: None) -> Prompt:
    """The prompt that was planned, decoded; `check`: see `PromptPlan.read`.

    Raises:
        SampleError: a medium is damaged; names it.
    """
    sequence, patches = planned.read(check)
    return Prompt.of(sequence, patches, planned.tokenizer.rule)


def seen(engine: Engine, planned: PromptPlan) -> list[SeenMedium]:
    """Each medium of a plan, in reading order."""
    found = []
    for k, (medium, facts) in enumerate(zip(planned.media, planned.facts, strict=True)):
        units = [unit for unit in planned.layout.units if unit.medium == k]
        rows, columns = units[0].grid
        clip = facts.kind == "video"
        found.append(
            SeenMedium(
                kind=facts.kind,
                name=medium.name,
                width=facts.width,
                height=facts.height,
                shown_width=units[0].width,
                shown_height=units[0].height,
                rows=rows,
                columns=columns,
                tokens=sum(unit.tokens for unit in units),
                seconds=tuple(choose_moments(facts, engine.answering.video)[0].tolist()) if clip else (),
                duration=facts.duration,
            )
        )
    return found
