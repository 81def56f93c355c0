"""Which parts of the pictures a word of an answer attended to: softmax weights of the model's own queries and keys.

One forward pass over conversation and answer, apart from how answers are made. The word's tokens were produced at the
places in front of them, so the weights of those places count: the mean over heads, over the word's tokens, and over all
layers or of one. Weights over all of a prompt add up to 1; what pictures do not have, text has.

    places   ... <im_start> assistant \\n |  A   red  square
    watched                            ^    ^   ^            for the word "A red square"
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.facts import Turn
from ..data.rows.collate import Document, collate
from ..data.text.answers import ANSWER_TOKENS, mark_answers
from ..data.text.serialize import make_outlines
from ..model.layers import PackedRow
from ..model.prompt import Prompt
from ..types import TokenSequence
from .engine import Engine

MOST_TOKENS = 64
"""Of a word: each holds its weights over the whole row, of every head."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Where a word was looked for."""

    tokens: tuple[str, ...]
    """Texts of the tokens that make up the word."""
    units: tuple[Tensor, ...]
    """[rows, columns] float32 of each image or frame, in reading order."""
    layers: int
    """How many the model has."""


@dataclass(frozen=True, eq=False, kw_only=True)
class WatchedRow(PackedRow):
    """A packed row that adds up the weights of some of its tokens."""

    watched: Tensor
    """[n] int64, places."""
    layers: tuple[int, ...]
    """Whose weights are added up."""
    weights: Tensor
    """[T] float32: the mean over the watched tokens, added up over those layers that have been through."""

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        if layer in self.layers:
            bounds = self.start[self.watched], self.limit[self.watched]
            scale = v_TKE.shape[-1] ** -0.5
            self.weights.add_(attention_weights(q_THD[self.watched], k_TKD, *bounds, scale=scale).mean(0))
        return super().attend(layer, q_THD, k_TKD, v_TKE)


def attention_weights(q_NHD: Tensor, k_TKD: Tensor, start: Tensor, limit: Tensor, *, scale: float) -> Tensor:
    """Softmax weights of N queries over T keys, the mean over heads: [N, T] float32, each row adds up to 1.

    Args:
        q_NHD: queries; H is a multiple of K.
        k_TKD: keys.
        start, limit: [N], the keys that a query sees.
        scale: of the scores.
    """
    q = q_NHD.float().unflatten(1, (k_TKD.shape[1], -1))  # [N, K, H / K, D]
    scores = torch.einsum("nkgd,tkd->nkgt", q, k_TKD.float()) * scale
    keys = torch.arange(k_TKD.shape[0], device=q.device)
    seen = (keys >= start[:, None]) & (keys < limit[:, None])
    return scores.masked_fill(~seen[:, None, None], float("-inf")).softmax(-1).mean((1, 2))


def attention(
    engine: Engine, prompt: Prompt, answer: str, start: int, end: int, *, layer: int | None = None
) -> Attention:
    """Where the model looked for the characters [start, end) of its answer.

    Args:
        engine: the model.
        prompt: what it was asked.
        answer: what it said.
        start, end: the word's characters.
        layer: number of a layer; None takes the mean over all.

    Raises:
        ValueError: no such layer, no token there, or more than `MOST_TOKENS`.
    """
    depth = engine.model.config.num_hidden_layers
    if layer is not None and not 0 <= layer < depth:
        raise ValueError(f"layer must be from 0 to {depth - 1}, found {layer}")
    ids = _answer_ids(engine, answer)
    spans = _spans(engine, ids)
    word = [i for i, (a, b) in enumerate(spans) if a < end and b > start]
    if not word:
        raise ValueError(f"the answer has no token at characters {start} to {end}")
    if len(word) > MOST_TOKENS:
        raise ValueError(f"characters {start} to {end} are {len(word)} tokens: choose a word of up to {MOST_TOKENS}")
    ids = ids[: word[-1]]
    learnt = torch.zeros(len(ids), dtype=torch.bool)
    sequence = TokenSequence(
        input_ids=torch.cat([prompt.input_ids, torch.tensor(ids, dtype=torch.long)]),
        supervised=torch.cat([torch.zeros_like(prompt.visual), learnt]),
        visual=torch.cat([prompt.visual, learnt]),
        grids=prompt.grids,
    )
    document = Document(key="", modality="text", sequence=sequence, patches=prompt.patches)
    total, model = sequence.input_ids.numel(), engine.model
    pad = engine.tokenizer.pad_id
    batch = collate([document], context=total, pad_id=pad, weighting="token", rule=prompt.rule)
    batch = batch.to(model.head_weight.device)
    of_units = batch.visual_index, batch.row_index
    first = prompt.input_ids.numel() - 1
    row = WatchedRow(
        **vars(model.row(batch.positions, batch.start, batch.limit, *of_units)),
        watched=torch.tensor([first + i for i in word], device=batch.start.device),
        layers=tuple(range(depth)) if layer is None else (layer,),
        weights=torch.zeros(total, device=batch.start.device),
    )
    with torch.no_grad():
        model.hidden(model.embed(batch.input_ids, batch.visual_index, batch.patches, batch.grids, batch.row_index), row)
    weights = (row.weights / len(row.layers)).cpu()[sequence.visual]
    sizes = prompt.grids.long().tolist()
    parts = weights.split([rows * columns for rows, columns in sizes])
    units = tuple(part.view(*size) for part, size in zip(parts, sizes, strict=True))
    return Attention(tokens=tuple(answer[slice(*spans[i])] for i in word), units=units, layers=depth)


def _answer_ids(engine: Engine, answer: str) -> list[int]:
    """The answer's tokens, without the mark that ends the turn."""
    turns = mark_answers([Turn(role="assistant", parts=(answer,))], tuple(ANSWER_TOKENS))
    (outline,) = make_outlines([turns], engine.tokenizer)
    ids = outline.ids[outline.supervised].tolist()
    return ids[: len(ids) - 1 - len(engine.tokenizer.newline_ids)]


def _spans(engine: Engine, ids: Sequence[int]) -> list[tuple[int, int]]:
    """Characters [start, end) of each token; a character of several tokens is those of its last."""
    reader, spans, at = codecs.getincrementaldecoder("utf-8")("replace"), [], 0
    for number in ids:
        end = at + len(reader.decode(engine.tokenizer.token_bytes(number)))
        spans.append((at, end))
        at = end
    return spans
