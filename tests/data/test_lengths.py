"""Lengths as arrays are the lengths of layouts, to the token."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from neo_lightning.data.facts import MediaError, MediaFacts, SampleError, SampleFacts, Turn
from neo_lightning.data.index.table import FactsTable
from neo_lightning.data.index.tokens import count_tokens
from neo_lightning.data.media.image import smart_resize
from neo_lightning.data.rows.collate import Document, collate
from neo_lightning.data.text.lengths import Labels, Measures, ShardPartShapes, fitted_layout, measure, unit_grids
from neo_lightning.data.text.serialize import Layout, Outline, build_sequence, make_outlines
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.types import PixelBudget, Stage, VideoBudget

SIDES = st.one_of(st.integers(1, 200), st.integers(1, 5000), st.sampled_from([16, 32, 48, 80, 112, 1024]))


@st.composite
def media(draw: st.DrawFn) -> MediaFacts:
    width, height = draw(SIDES), draw(SIDES)
    if draw(st.booleans()):
        return MediaFacts(kind="image", width=width, height=height)
    frames = draw(st.integers(1, 400))
    rate = draw(st.sampled_from([(1, 25), (1001, 30000), (1, 600), (7, 3)]))
    duration = frames * rate[0] / rate[1]
    return MediaFacts(
        kind="video", width=width, height=height, ticks=np.arange(frames), time_base=rate, duration=duration
    )


@st.composite
def samples(draw: st.DrawFn) -> tuple[tuple[Turn, ...], tuple[MediaFacts, ...]]:
    shown = tuple(draw(st.lists(media(), max_size=4)))
    question = draw(st.text("abc 12\n", max_size=30))
    turns = (
        Turn(role="user", parts=(*range(len(shown)), question)),
        Turn(role="assistant", parts=(draw(st.text("xy 3", min_size=1, max_size=60)),)),
    )
    return turns, shown


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    least, video_least = draw(st.integers(1, 90_000)), draw(st.integers(1, 9000))
    return Stage(
        steps=1,
        context=draw(st.integers(20, 3000)),
        packs_per_step=1,
        mixture={"a": 1},
        lr=1.0,
        image=PixelBudget(min_pixels=least, max_pixels=least * draw(st.integers(1, 40))),
        video=VideoBudget(
            fps=draw(st.sampled_from([None, 0.5, 1.0, 2.0])),
            max_frames=draw(st.integers(1, 64)),
            min_pixels=video_least,
            prefix=draw(st.sampled_from([VideoBudget().prefix, "{frames} frames up to {end}: "])),
            frame_label=draw(st.sampled_from([VideoBudget().frame_label, "Frame at {time}: "])),
            max_pixels=video_least * draw(st.integers(1, 20)),
        ),
        too_long=draw(st.sampled_from(["drop", "rescale"])),
    )


def measured(drawn: list, tokenizer: Tokenizer, stage: Stage) -> Measures:
    """Through the columns that an index keeps."""
    samples = [SampleFacts(key=str(i), modality="image", turns=t, media=m) for i, (t, m) in enumerate(drawn)]
    table = FactsTable.from_samples(samples, count_tokens([s.turns for s in samples], tokenizer))
    labels = Labels(tokenizer)
    return measure(ShardPartShapes.of(table, labels), labels, stage)


def fitted(
    outline: Outline, shown: tuple[MediaFacts, ...], tokenizer: Tokenizer, stage: Stage
) -> tuple[Layout | None, int, SampleError | None]:
    try:
        return *fitted_layout(outline, shown, tokenizer, stage), None
    except SampleError as error:
        return None, 0, error


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(samples(), min_size=1, max_size=6), stages())
def test_measures_are_those_of_layouts(tokenizer: Tokenizer, drawn: list, stage: Stage) -> None:
    outlines = make_outlines([turns for turns, _ in drawn], tokenizer)
    found = measured(drawn, tokenizer, stage)
    for i, ((_, shown), outline) in enumerate(zip(drawn, outlines, strict=True)):
        layout, halvings, refusal = fitted(outline, shown, tokenizer, stage)
        if layout is None:
            assert (found.length[i], found.supervised[i], found.pairs[i]) == (0, 0, 0)
            refused = isinstance(refusal, MediaError)
            assert (found.halvings[i] < 0) == refused
            assert refused or str(refusal).startswith(f"{found.full[i]} tokens")
            continue
        assert (found.length[i], found.halvings[i]) == (layout.length, halvings)
        assert found.supervised[i] == outline.supervised.sum()
        units = [unit.tokens for unit in layout.units]
        assert found.pairs[i] == layout.length * (layout.length + 1) // 2 + sum(n * (n - 1) // 2 for n in units)


@pytest.mark.parametrize(("room", "tokens", "halvings"), [(1024, 1024, 0), (1023, 484, 1), (256, 256, 2), (63, 25, 5)])
def test_budgets_are_halved_until_a_sample_fits(tokenizer: Tokenizer, room: int, tokens: int, halvings: int) -> None:
    """An image of a megapixel; at last below the smallest area of the stage too."""
    turns = (Turn(role="user", parts=(0, "a 1 " * 50)), Turn(role="assistant", parts=("x",)))
    (outline,) = make_outlines([turns], tokenizer)
    shown = (MediaFacts(kind="image", width=1024, height=1024),)
    budget = PixelBudget(min_pixels=65536, max_pixels=1 << 20)
    wide = Stage(steps=1, context=4096, packs_per_step=1, mixture={"a": 1}, lr=1.0, image=budget, too_long="rescale")
    text = fitted_layout(outline, shown, tokenizer, wide)[0].length - 1024
    layout, found = fitted_layout(outline, shown, tokenizer, replace(wide, context=text + room))
    assert ([unit.tokens for unit in layout.units], found) == ([tokens], halvings)


@settings(max_examples=300, deadline=None)
@given(SIDES, SIDES, st.integers(1, 2_000_000), st.integers(0, 5_000_000))
def test_grids_are_those_of_smart_resize(height: int, width: int, least: int, more: int) -> None:
    budget = PixelBudget(min_pixels=least, max_pixels=least + more)
    try:
        rows, columns = smart_resize(height, width, budget)
    except MediaError:
        return
    arrays = [np.array([x]) for x in (height, width, least, least + more)]
    assert [side.tolist() for side in unit_grids(*arrays, 32)] == [[rows // 32], [columns // 32]]


def test_pairs_are_those_that_the_mask_lets_through(tokenizer: Tokenizer) -> None:
    import torch

    shown = tuple(MediaFacts(kind="image", width=w, height=96) for w in (64, 160))
    turns = (Turn(role="assistant", parts=(0, "a b c", 1, "d")),)
    outline = make_outlines([turns], tokenizer)[0]
    stage = Stage(steps=1, context=512, packs_per_step=1, mixture={"a": 1}, lr=1.0, image=PixelBudget(min_pixels=1024))
    found = measured([(turns, shown)], tokenizer, stage)
    layout, _ = fitted_layout(outline, shown, tokenizer, stage)
    sequence = build_sequence(layout, tokenizer)
    patches = torch.zeros(4 * int(sequence.visual.sum()), 768, dtype=torch.uint8)
    row = collate([Document("a", "multi_image", sequence, patches)], context=512, pad_id=0, weighting="token")
    assert row.info is not None
    assert (row.info.pairs, row.info.tokens) == (found.pairs[0], found.length[0])
    assert row.info.supervised == found.supervised[0]


def test_no_samples_have_no_lengths(tokenizer: Tokenizer) -> None:
    stage = Stage(steps=1, context=8, packs_per_step=1, mixture={"a": 1}, lr=1.0)
    assert measured([], tokenizer, stage).length.shape == (0,)


@pytest.mark.parametrize("seconds", [3.0, 59.996, 3600.25])
def test_labels_of_clips_are_counted_once_and_again(tokenizer: Tokenizer, seconds: float) -> None:
    labels = Labels(tokenizer)
    frames, duration = np.array([4, 1, 7]), np.array([seconds, 1.0, seconds])
    usual, other = VideoBudget(), VideoBudget(prefix="A clip.\n", frame_label="Frame at {time}: ")
    first = labels.of_clips(frames, duration, usual)
    assert (labels.of_clips(frames, duration, other) != first).all(), "each wording is counted for itself"
    assert labels.of_clips(frames, duration, usual).tolist() == first.tolist()
    assert labels.of_clips(frames[2:], duration[2:], usual).tolist() == first[2:].tolist()
