"""Held-out samples -> questions ready for the model, and the model's answers to them.

A question is a sample whose last turn is the right answer; its `meta` names the question type (`task`) and what a
guess reaches (`chance`, `guess`). So any shard with such `meta` can be evaluated, not only drawn scenes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..answering import Engine
from ..data.facts import SampleError
from ..data.index import ShardSource
from ..data.index.scan import modality_of
from ..data.manifest import expand_pattern
from ..model.prompt import Prompt
from ..types import Media, Message, Sample


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question as the model gets it."""

    key: str
    kind: str
    """Question type."""
    modality: str
    text: str
    """What the last user turn says behind its media, for people."""
    truth: str
    chance: float
    """Exact match (0-1) of the best guess that sees no pixels."""
    guess: float
    """Exact match of a guess among what is visible; what has to be beaten."""
    prompt: Prompt

    @property
    def patches(self) -> Tensor:
        """[P, 768] uint8: the pixels as the model gets them."""
        return self.prompt.patches

    @property
    def blanked(self) -> Question:
        """The same question with every pixel black."""
        return replace(self, prompt=replace(self.prompt, patches=blank(self.patches)))


def open_shards(patterns: Iterable[str]) -> list[ShardSource]:
    """Held-out shards, each with one modality, which its first sample tells.

    Raises:
        ManifestError, ShardError: a pattern matches nothing, or a shard is damaged.
        ValueError: a sample cannot be used. Training leaves such a sample out; an accuracy over fewer questions than
            were written would be wrong without anybody noticing.
    """
    sources = []
    for path in [path for pattern in patterns for path in expand_pattern(Path(), pattern, "evaluation")]:
        source = ShardSource(Path(path).stem, modality_of(path), (path,))
        if skipped := source.skipped:
            key, reason = skipped[0]
            raise ValueError(
                f"{path}: {len(skipped)} held-out samples cannot be used, the first being {key!r}: {reason} "
                "(a held-out shard holds samples of one modality)"
            )
        sources.append(source)
    return sources


def question_type(sample: Sample) -> str:
    """The type of question that a held-out sample asks.

    Raises:
        ValueError: `meta` lacks the type or its chance level.
    """
    for name in ("task", "chance"):
        if name not in sample.meta:
            raise ValueError(
                f"{sample.key}: `meta` lacks {name!r}; evaluation needs `task` (the question type) and `chance` (exact "
                f"match of a guess, 0-1), found {', '.join(sample.meta) or 'nothing'}"
            )
    return str(sample.meta["task"])


def question(sample: Sample, engine: Engine) -> Question:
    """Turn a held-out sample into a question, as the engine's model is asked.

    Raises:
        ValueError: the last turn is not the assistant's, `meta` lacks the type or its chance level, or a medium is bad.
    """
    kind, meta = question_type(sample), sample.meta
    *asked, last = sample.messages
    if last.role != "assistant" or not asked:
        raise ValueError(f"{sample.key}: a question's last message has to be the assistant's right answer")
    try:
        prompt = engine.prompt(asked)
    except SampleError as error:
        raise ValueError(f"{sample.key}: this held-out sample cannot be used: {error}") from error
    return Question(
        key=sample.key,
        kind=kind,
        modality=sample.modality,
        text=_text(asked[-1]),
        truth=_text(last),
        chance=float(meta["chance"]),
        guess=float(meta.get("guess", meta["chance"])),
        prompt=prompt,
    )


def _text(message: Message) -> str:
    """What a turn says behind its last medium."""
    media = [place for place, part in enumerate(message.parts) if isinstance(part, Media)]
    behind = message.parts[media[-1] + 1 :] if media else message.parts
    return "".join(part for part in behind if isinstance(part, str)).strip()


def blank(patches: Tensor) -> Tensor:
    """Patches [P, 768] uint8 of the same sizes with every pixel black: the control that sees nothing.

    Some of the drawn training scenes are black (`data.scenes.generate.DARK_SHARE`), so that the answer is a guess in
    the form of the question. With a ground that no training scene has it may fit no question: exact match then lies
    far below chance and says nothing about what the wording gives away.
    """
    return torch.zeros_like(patches)


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
