"""Weights of a word: those of the reference attention, and where they are said to be."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.answering import Engine
from neo_lightning.answering.attention import WatchedRow, attention, attention_weights
from neo_lightning.ops.interval_attention import reference
from neo_lightning.types import Media, Message
from tests.serving.conftest import picture


def test_weights_are_the_references() -> None:
    """The reference's output for values that are unit vectors is its weights."""
    generator = torch.Generator().manual_seed(0)
    tokens, heads, kv, width = 13, 6, 2, 8
    q, k = torch.randn(tokens, heads, width, generator=generator), torch.randn(tokens, kv, width, generator=generator)
    start = torch.tensor([0] * 8 + [8] * 5)
    limit = torch.tensor([1, 2, 6, 6, 6, 6, 7, 8, 9, 10, 11, 12, 13])
    values = torch.eye(tokens)[:, None].expand(tokens, kv, tokens)
    wanted = reference.attend(q, k, values, reference.prepare(start, limit), 0.3).mean(1)
    places = torch.tensor([4, 12, 0])
    found = attention_weights(q[places], k, start[places], limit[places], scale=0.3)
    assert torch.allclose(found, wanted[places], atol=1e-6)


def test_a_words_weights(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tokens, the places that produced them, and the picture's part of them."""
    prompt = engine.prompt([Message(role="user", parts=(Media(kind="image", data=picture((96, 64))), "What?"))])
    rows: list[WatchedRow] = []
    attend = WatchedRow.attend

    def watched(self: WatchedRow, *args: torch.Tensor) -> torch.Tensor:
        rows.append(self)
        return attend(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(WatchedRow, "attend", watched)
    answer = "é red circle"
    found = attention(engine, prompt, answer, 2, 5)
    assert "red" in "".join(found.tokens)
    assert [tuple(unit.shape) for unit in found.units] == [tuple(grid) for grid in prompt.grids.tolist()]
    weights = rows[0].weights / found.layers
    assert torch.allclose(weights.sum(), torch.ones(()), atol=1e-5), "with the text's they add up to 1"
    assert torch.equal(
        torch.cat([unit.flatten() for unit in found.units]), weights[: prompt.visual.numel()][prompt.visual]
    )
    before = len(engine.tokenizer.encode_text("é"))  # tokens in front of the word
    assert rows[0].watched[0] >= prompt.input_ids.numel() - 1 + before - 1
    assert weights.numel() == int(rows[0].watched[-1]) + 1, "what comes behind the word changes nothing"
    layers = [attention(engine, prompt, answer, 2, 5, layer=layer).units[0] for layer in range(found.layers)]
    assert torch.allclose(torch.stack(layers).mean(0), found.units[0], atol=1e-6)
    with pytest.raises(ValueError, match="from 0 to"):
        attention(engine, prompt, answer, 0, 1, layer=found.layers)
    with pytest.raises(ValueError, match="no token"):
        attention(engine, prompt, answer, 99, 100)
    with pytest.raises(ValueError, match=r"characters 0 to 300 are \d+ tokens: choose a word of up to 64"):
        attention(engine, prompt, "@ " * 150, 0, 300)
