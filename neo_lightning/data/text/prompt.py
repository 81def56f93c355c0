"""Messages -> what a model goes on from: tokens that end in the assistant's line, and the pixels of what they show.

A plan needs headers alone: how many tokens there will be, and at which size everything is shown. `read` decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from neo_lightning.data.facts import MediaError, MediaFacts, SampleError, Turn
from neo_lightning.data.media.image import image_facts, smart_resize
from neo_lightning.data.media.video import in_section, video_facts
from neo_lightning.data.text.serialize import (
    Layout,
    Outline,
    build_sequence,
    make_layout,
    make_outlines,
    read_medium,
    together,
)
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import Media, Message, PixelBudget, TokenSequence, VideoBudget


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPlan:
    """A prompt of which nothing has been decoded yet."""

    layout: Layout
    media: tuple[Media, ...]
    """In reading order."""
    facts: tuple[MediaFacts, ...]
    """Of each medium."""
    tokenizer: Tokenizer

    def read(self, check: Callable[[], None] = lambda: None) -> tuple[TokenSequence, Tensor]:
        """Tokens, and patches [P, values] uint8.

        Args:
            check: called in front of each medium; what it raises ends the reading.

        Raises:
            MediaError: a medium is damaged or is not what its header says; names it.
        """
        patches: list[Tensor] = []
        for medium, fact, segment in zip(self.media, self.facts, self.layout.segments, strict=True):
            check()
            with _named(medium):
                patches += read_medium(medium, fact, segment)
        return build_sequence(self.layout, self.tokenizer), together(patches, self.tokenizer.rule)


def plan_prompt(
    messages: Sequence[Message], tokenizer: Tokenizer, image_budget: PixelBudget, video_budget: VideoBudget
) -> PromptPlan:
    """What `prompt_from_messages` would give, from the headers of the media.

    Raises:
        SampleError: no message, or a medium whose header cannot be used.
    """
    turns: list[Turn] = []
    media: list[Media] = []
    opened = False
    for number, message in enumerate(messages):
        answer = number == len(messages) - 1 and message.role == "assistant"
        parts: list[str | int] = []
        for part in message.parts:
            if isinstance(part, Media):
                parts.append(len(media))
                media.append(part)
            elif answer:
                break
            else:
                parts.append(part)
        if parts or not answer:
            opened = answer
            turns.append(Turn(role=message.role, parts=tuple(parts)))
    if not turns:
        raise SampleError("nothing to answer: the conversation has no message before the answer")
    facts = []
    for medium in media:
        with _named(medium):
            if medium.kind == "image":
                facts.append(image_facts(medium.data))
            else:
                facts.append(in_section(video_facts(medium.data), medium.section))
            smart_resize(facts[-1].height, facts[-1].width, image_budget)  # an aspect ratio that is refused, by name
    layout = make_layout(_outline(turns, tokenizer, opened=opened), facts, tokenizer, image_budget, video_budget)
    return PromptPlan(layout=layout, media=tuple(media), facts=tuple(facts), tokenizer=tokenizer)


def prompt_from_messages(
    messages: Sequence[Message], tokenizer: Tokenizer, image_budget: PixelBudget, video_budget: VideoBudget
) -> tuple[TokenSequence, Tensor]:
    """Tokens that end in `<|im_start|>assistant\\n`, and patches [P, 768] uint8.

    A trailing assistant message is the answer to be found: it is left out, except for media it opens with (a caption's
    picture stands there).

    Raises:
        SampleError: no message, or a medium that cannot be read.
    """
    return plan_prompt(messages, tokenizer, image_budget, video_budget).read()


def _outline(turns: Sequence[Turn], tokenizer: Tokenizer, *, opened: bool = False) -> Outline:
    """Outline that ends with the assistant's line, for the model to go on. Nothing is supervised.

    With `opened` the last turn is what the answer opens with (a caption's picture).
    """
    outline = make_outlines([turns], tokenizer)[0]
    tail = [tokenizer.im_start_id, *tokenizer.encode_text("assistant\n")]
    if opened:  # take the end mark off again
        ids, tail = outline.ids[: -1 - len(tokenizer.newline_ids)], []
    else:
        ids = outline.ids
    ids = np.concatenate([ids, np.array(tail, dtype=np.int32)])
    return Outline(ids, np.zeros(len(ids), dtype=bool))


@contextmanager
def _named(medium: Media) -> Iterator[None]:
    """Errors say which medium it is: a prompt may show many."""
    try:
        yield
    except MediaError as error:
        raise MediaError(f"{medium.name}: {error}" if medium.name else str(error)) from error
