"""A conversation without its last answer -> what the model needs to give one: tokens and patches.

The way is that of training (facts, outline, layout, patches), so a question is asked exactly as it was learnt.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from neo_lightning.data.facts import SampleError, Turn
from neo_lightning.data.image import image_facts
from neo_lightning.data.serialize import build_sequence, make_layout, prompt_outline, read_patches
from neo_lightning.data.tokenizer import Tokenizer
from neo_lightning.data.video import video_facts
from neo_lightning.types import Media, Message, PixelBudget, VideoBudget
from neo_lightning.types import Sequence as TokenSequence


def prompt_from_messages(
    messages: Sequence[Message], tokenizer: Tokenizer, image_budget: PixelBudget, video_budget: VideoBudget
) -> tuple[TokenSequence, Tensor]:
    """Tokens that end in `<|im_start|>assistant\\n`, and patches [P, 768] uint8.

    A trailing assistant message is the answer to be found: it is left out, except for media it opens with (a caption's
    picture stands there).

    Raises:
        SampleError: no message, or a medium that cannot be read.
    """
    turns: list[Turn] = []
    media: list[Media] = []
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
            turns.append(Turn(role=message.role, parts=tuple(parts)))
    if not turns:
        raise SampleError("nothing to answer: the conversation has no message before the answer")
    facts = [image_facts(m.data) if m.kind == "image" else video_facts(m.data) for m in media]
    layout = make_layout(prompt_outline(turns, tokenizer), facts, tokenizer, image_budget, video_budget)
    return build_sequence(layout, tokenizer), read_patches(layout, media, facts)


def blank_patches(patches: Tensor) -> Tensor:
    """The same patches without content: the control that asks whether the pixels were looked at."""
    from neo_lightning.data.image import BLANK

    return torch.full_like(patches, BLANK)
