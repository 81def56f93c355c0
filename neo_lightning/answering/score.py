"""How likely a model finds an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..data.facts import Turn
from ..data.rows.collate import Document, collate
from ..data.text.answers import ANSWER_TOKENS, mark_answers
from ..data.text.serialize import make_outlines
from ..data.text.tokenizer import Tokenizer
from ..model.neo import Neo
from ..model.prompt import Prompt
from ..types import TokenSequence

MARKED = tuple(ANSWER_TOKENS)
"""In what a model has said before, `<think>` or `<box>` is the token again that it was."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """Of one answer."""

    log_probability: float
    """Sum over the answer's tokens, in nats; the mark that ends the turn is not among them."""
    tokens: int
    """Tokens of the answer."""

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token; 0 for an empty answer."""
        return self.log_probability / self.tokens if self.tokens else 0.0


def scores(model: Neo, tokenizer: Tokenizer, prompts: Sequence[Prompt], answers: Sequence[str]) -> list[Score]:
    """Through the training's own path: the loss of a packed row, of which only the answers are supervised."""
    turns = [mark_answers([Turn(role="assistant", parts=(text,))], MARKED) for text in answers]
    documents = []
    for prompt, outline in zip(prompts, make_outlines(turns, tokenizer), strict=True):
        ids = torch.from_numpy(outline.ids[outline.supervised]).long()
        ids = ids[: len(ids) - 1 - len(tokenizer.newline_ids)]  # without the end of the turn
        learnt = torch.ones(len(ids), dtype=torch.bool)
        sequence = TokenSequence(
            input_ids=torch.cat([prompt.input_ids, ids]),
            supervised=torch.cat([torch.zeros_like(prompt.visual), learnt]),
            visual=torch.cat([prompt.visual, ~learnt]),
            grids=prompt.grids,
        )
        documents.append(Document(key="", modality="text", sequence=sequence, patches=prompt.patches))
    total = sum(d.sequence.input_ids.numel() for d in documents)
    row = collate(documents, context=total, pad_id=tokenizer.pad_id, weighting="token", rule=tokenizer.rule)
    with torch.no_grad():
        output = model(row.to(model.head_weight.device))
    nll, places = output.nll.double().cpu(), output.places.cpu()
    counts = [int(d.sequence.supervised.sum()) for d in documents]
    assert len(places) == sum(counts)
    sums = [-float(part.sum()) for part in nll.split(counts)]
    return [Score(log_probability=s + 0.0, tokens=n) for s, n in zip(sums, counts, strict=True)]
