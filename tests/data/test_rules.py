"""A sequence rule other than NEO's from facts to packed rows: sides, row tokens, masks; planned is what is read."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neo_lightning.data.facts import MediaFacts, SampleFacts, Turn
from neo_lightning.data.index.table import FactsTable
from neo_lightning.data.index.tokens import count_tokens
from neo_lightning.data.media.image import patchify, unpatchify
from neo_lightning.data.rows.collate import Document, collate
from neo_lightning.data.text.lengths import Labels, ShardPartShapes, fitted_layout, measure
from neo_lightning.data.text.serialize import build_sequence, make_outlines
from neo_lightning.data.text.tokenizer import Tokenizer, TokenizerError
from neo_lightning.sequence import SequenceRule
from neo_lightning.types import PixelBudget, Stage, VideoBudget

RULES = [
    SequenceRule(side=28, positions="index", mask="causal", row_tokens="id"),
    SequenceRule(side=16, positions="grid", mask="tags", row_tokens="learned"),
    SequenceRule(side=48, causal_part=0.25),
]


def with_rule(tokenizer: Tokenizer, rule: SequenceRule) -> Tokenizer:
    return Tokenizer(tokenizer.backend, rule)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(RULES), st.lists(st.tuples(st.integers(1, 900), st.integers(1, 900)), max_size=3), st.booleans())
def test_what_is_planned_is_what_is_packed(tokenizer: Tokenizer, rule: SequenceRule, sizes: list, clip: bool) -> None:
    ours = with_rule(tokenizer, rule)
    sizes = [(w, h) for w, h in sizes if max(w, h) <= 200 * min(w, h)]
    media = tuple(MediaFacts(kind="image", width=w, height=h) for w, h in sizes)
    if clip:
        ticks = {"ticks": np.arange(30), "time_base": (1, 10), "duration": 3.0}
        media += (MediaFacts(kind="video", width=90, height=60, **ticks),)
    turns = (Turn(role="user", parts=(*range(len(media)), "a b")), Turn(role="assistant", parts=("x",)))
    budget = PixelBudget(min_pixels=4096, max_pixels=60_000)
    video = VideoBudget(fps=1.0, min_pixels=4096, max_pixels=9216)
    stage = Stage(steps=1, context=4096, packs_per_step=1, mixture={"a": 1}, lr=1.0, image=budget, video=video)
    outline = make_outlines([turns], ours)[0]
    layout, _ = fitted_layout(outline, media, ours, stage)
    sequence = build_sequence(layout, ours)
    values = 3 * (rule.side // 2) ** 2
    patches = torch.zeros(4 * int(sequence.visual.sum()), values, dtype=torch.uint8)
    row = collate(
        [Document("a", "image", sequence, patches), Document("b", "image", sequence, None, "bad")],
        context=2 * layout.length + 3,
        pad_id=0,
        weighting="token",
        rule=rule,
    )
    samples = [SampleFacts(key="0", modality="image", turns=turns, media=media)]
    labels = Labels(ours)
    found = measure(
        ShardPartShapes.of(FactsTable.from_samples(samples, count_tokens([turns], ours)), labels), labels, stage
    )
    assert found.length.tolist() == [layout.length] == [sequence.input_ids.numel()]
    assert row.info is not None
    assert abs(row.info.pairs - 2 * int(found.pairs[0])) <= 2 * (rule.causal_part > 0)
    rows = sum(r for r, _ in sequence.grids.tolist())
    assert row.row_index.numel() == 2 * rows * rule.extra_columns
    if rule.row_tokens == "id":
        assert set(row.input_ids[row.row_index].tolist()) <= {ours.newline_ids[0]}
    assert row.patches.shape == (max(4, 2 * patches.shape[0]), values)
    assert set(row.input_ids[row.visual_index].tolist()) <= {ours.context_id}


@pytest.mark.parametrize("side", [8, 14, 15, 24])
def test_patches_of_any_side_come_back_as_the_picture(side: int) -> None:
    pixels = torch.randint(0, 256, (3, 4 * side, 6 * side), dtype=torch.uint8)
    patches = patchify(pixels, side)
    assert torch.equal(patches[7], pixels[:, side : 2 * side, side : 2 * side].flatten())
    assert torch.equal(unpatchify(patches, 4, 6), pixels)


def test_a_row_token_is_one_token_or_is_refused(tokenizer: Tokenizer) -> None:
    rule = SequenceRule(row_tokens="id")
    assert with_rule(tokenizer, rule).row_id == tokenizer.newline_ids[0]
    assert with_rule(tokenizer, replace(rule, row_token="</box>")).row_id == tokenizer.special["</box>"]
    with pytest.raises(TokenizerError, match=r"row token 'not one' \(model.design.row_tokens\) is \d+ tokens"):
        with_rule(tokenizer, replace(rule, row_token="not one"))


def test_a_rule_travels_with_the_tokenizer_and_belongs_to_the_plan(tokenizer: Tokenizer) -> None:
    other = with_rule(tokenizer, RULES[0])
    assert pickle.loads(pickle.dumps(other)).rule == RULES[0]
    assert with_rule(tokenizer, SequenceRule()).digest == tokenizer.digest != other.digest
