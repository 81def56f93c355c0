"""The running batch: answers are those of a sequence alone, whoever joins and leaves; what is kept, and for whom."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from neo_lightning.model.batch import RunningBatch
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.running import Running
from neo_lightning.model.sampling import Sampling
from tests.model.support import random_document, random_patches, small_model

GREEDY = Sampling()
DRAWN = Sampling(temperature=1.3, top_p=0.95, top_k=200)
SHAPES: list[tuple[list[tuple[int, int]], int]] = [([(2, 3)], 4), ([], 9), ([(1, 1), (3, 2), (2, 2)], 3), ([], 1)]


def prompt_of(images: list[tuple[int, int]], text: int, seed: int) -> Prompt:
    config = small_model().config
    document = random_document(config, images, text, seed)
    visual = document[0] == config.image_token_id
    return Prompt(input_ids=document[0], visual=visual, grids=document[1], patches=random_patches([document], seed))


def longer(prompt: Prompt, ids: list[int]) -> Prompt:
    """The next turn: more text behind it."""
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, torch.tensor(ids)]),
        visual=torch.cat([prompt.visual, torch.zeros(len(ids), dtype=torch.bool)]),
    )


def asked(number: int, **changes: Any) -> dict[str, Any]:
    return {"max_new_tokens": 8, "sampling": GREEDY, "seed": 5 + number, **changes}


def joined(batch: RunningBatch, prompt: Prompt, **options: Any) -> Running:
    sequence = batch.join(prompt, **{**asked(0), **options})
    assert sequence is not None
    return sequence


def run(batch: RunningBatch) -> None:
    while batch.running:
        batch.step()


def alone(model: Any, prompt: Prompt, **options: Any) -> list[int]:
    batch = RunningBatch(model)
    sequence = joined(batch, prompt, **options)
    run(batch)
    return sequence.tokens


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN, Sampling(repetition_penalty=1.6)], ids=["greedy", "drawn", "once"])
@pytest.mark.parametrize("prefill", [None, 5])
@pytest.mark.parametrize("keep", [0, 1000])
def test_staggered_sequences_get_the_tokens_that_each_gets_alone(
    sampling: Sampling, prefill: int | None, keep: int
) -> None:
    model = small_model(seed=3).double()
    prompts = [prompt_of(*shape, seed=10 + i) for i, shape in enumerate(SHAPES)]
    batch = RunningBatch(model, prefill=prefill, keep=keep)
    sequences = []
    for i, prompt in enumerate([*prompts, *prompts]):  # the second time while, or after, the first is there
        sequences.append(joined(batch, prompt, **asked(i, sampling=sampling, max_new_tokens=4 + i)))
        batch.step()
        batch.step()
    run(batch)
    for i, sequence in enumerate(sequences):
        options = asked(i, sampling=sampling, max_new_tokens=4 + i)
        assert sequence.tokens == alone(model, prompts[i % 4], **options)
        assert (sequence.cached > 0) == (keep > 0 and i > 3 and len(sequence.prompt) > 1)
    assert len({tuple(sequence.tokens) for sequence in sequences}) > 4


def test_logits_behind_a_prompt_in_parts_and_a_kept_beginning_are_those_of_the_whole() -> None:
    model = small_model(seed=3).double()
    seen: list[torch.Tensor] = []
    hook = model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    prompt = prompt_of([(2, 3), (4, 5), (1, 2)], 6, seed=1)
    batch = RunningBatch(model)
    joined(batch, prompt, max_new_tokens=2)
    run(batch)
    whole, after = seen
    for options in ({"prefill": 4}, {"prefill": 9}, {"keep": 1000}):
        batch = RunningBatch(model, **options)
        if "keep" in options:
            joined(batch, replace(prompt_of([(2, 3), (4, 5)], 6, seed=1)), max_new_tokens=1)
            run(batch)
        seen.clear()
        sequence = joined(batch, prompt, max_new_tokens=2)
        assert sequence.cached == (0 if "prefill" in options else len(prompt_of([(2, 3), (4, 5)], 6, seed=1)))
        run(batch)
        assert len(seen) > 2 or sequence.cached
        torch.testing.assert_close(seen[-2], whole, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(seen[-1], after, rtol=1e-10, atol=1e-10)
    hook.remove()


def test_parts_hold_as_much_as_they_may_and_cut_no_image() -> None:
    prompt = prompt_of([(2, 3), (4, 5)], 6, seed=1)
    for size in (1, 3, 7, 21, 50):
        place, parts = 0, []
        while place < len(prompt):
            end = prompt.part(place, size)
            parts.append(end - place)
            assert end == len(prompt) or not (prompt.visual[end - 1] and prompt.visual[end])
            place = end
        assert sum(parts) == len(prompt)
        assert all(part <= size or part in (6, 20) for part in parts), parts


def test_a_long_prompt_delays_others_by_one_part() -> None:
    model = small_model(seed=3)
    batch = RunningBatch(model, prefill=4)
    short = joined(batch, prompt_of([], 3, seed=1), max_new_tokens=20)
    batch.step()
    long = joined(batch, prompt_of([], 60, seed=2))
    steps = 0
    while not long.tokens:
        batch.step()
        steps += 1
    assert (steps, len(short.tokens)) == (30, 1 + 15), "a token of the short one between any two parts of the long one"


def test_the_next_turn_computes_its_new_tokens_alone() -> None:
    model = small_model(seed=3).double()
    batch = RunningBatch(model, keep=1000)
    first = joined(batch, prompt_of([(2, 3)], 4, seed=1))
    run(batch)
    turn = longer(first.prompt, [*first.tokens, 7, 8, 9])
    second = joined(batch, turn)
    assert second.cached == len(first.prompt) + len(first.tokens) - 1, "the last token of an answer is never fed"
    assert second.places.start == first.places.start, "in the same places: nothing is copied"
    run(batch)
    assert second.tokens == alone(model, turn)
    assert len(batch.kept) == 1


def test_a_common_beginning_is_shared_and_both_go_on() -> None:
    model = small_model(seed=3).double()
    batch = RunningBatch(model, keep=1000)
    system = prompt_of([(2, 3)], 6, seed=1)
    one, two = longer(system, [1, 2, 3]), longer(system, [4, 5])
    first = joined(batch, one)
    batch.step()
    second = joined(batch, two)  # while the first is still answering
    assert second.cached == len(system)
    run(batch)
    third = joined(batch, longer(one, [*first.tokens, 9]))
    assert third.cached == len(one) + 7
    run(batch)
    assert (first.tokens, second.tokens) == (alone(model, one), alone(model, two))


def test_another_picture_of_the_same_size_never_hits() -> None:
    batch = RunningBatch(small_model(seed=3), keep=1000)
    prompt = prompt_of([(2, 3)], 6, seed=1)
    joined(batch, prompt)
    run(batch)
    for change in ("pixel", "grid"):
        patches, grids = prompt.patches.clone(), prompt.grids.clone()
        if change == "pixel":
            patches[-1, -1] += 1
        else:
            grids[0] = torch.tensor([3, 2])
        other = joined(batch, replace(prompt, patches=patches, grids=grids))
        assert other.cached == 7, "the text in front, and the image's start"
        batch.leave(other)
    assert joined(batch, replace(prompt)).cached == len(prompt) - 1
    assert batch.kept[0].adapter is None


def test_a_prompt_that_ends_with_an_image_is_read_from_its_image_on() -> None:
    model = small_model(seed=3).double()
    whole = prompt_of([(2, 3)], 6, seed=1)
    prompt = replace(whole, input_ids=whole.input_ids[:13], visual=whole.visual[:13])
    assert prompt.visual[-6:].all()
    batch = RunningBatch(model, keep=1000)
    first = joined(batch, prompt)
    run(batch)
    again = joined(batch, prompt)
    assert again.cached == 7
    run(batch)
    assert again.tokens == first.tokens


def test_adapters_do_not_share_and_take_turns() -> None:
    used: list[str | None] = []
    batch = RunningBatch(small_model(seed=3), keep=1000, use=used.append)
    prompt = prompt_of([], 6, seed=1)
    names = [None, "a", "b", "a"]
    sequences = [joined(batch, prompt, adapter=name, max_new_tokens=3) for name in names]
    run(batch)
    assert Counter(used) == {None: 3, "a": 3, "b": 3}, "those with one adapter share their passes"
    assert {*used[-3:]} == {None, "a", "b"}, "and no adapter waits until another has ended"
    assert len({tuple(sequence.tokens) for sequence in sequences}) == 1
    assert joined(batch, prompt, adapter="c").cached == 0
    assert joined(batch, prompt, adapter="b").cached == 5
    other = RunningBatch(small_model(seed=3))
    joined(other, prompt, adapter="a")
    with pytest.raises(ValueError, match="'a' is not loaded"):
        other.step()


def test_the_bound_holds_and_a_sequence_waits_until_there_is_room() -> None:
    model = small_model(seed=3)
    batch = RunningBatch(model, cache_tokens=40, keep=40)
    prompts = [prompt_of([], 10, seed=i) for i in range(6)]
    sequences: list[Running] = []
    while len(sequences) < 6 or batch.running:
        if len(sequences) < 6 and (found := batch.join(prompts[len(sequences)], **asked(0))):
            sequences.append(found)
            assert len(batch.running) <= 2, "17 places each"
        batch.step()
        assert batch.cache.places <= 40
        taken = sorted((r.start, r.end) for r in batch.cache.ranges)
        assert all(a[1] <= b[0] for a, b in pairwise(taken))
        assert taken[-1][1] <= 40 if taken else True
    assert [sequence.tokens for sequence in sequences] == [alone(model, prompt) for prompt in prompts]
    assert batch.kept[-1].keys.numel() == 17
    with pytest.raises(ValueError, match="the prompt has 34 tokens and the answer up to 8: more than the 40"):
        batch.join(prompt_of([], 34, seed=1), **asked(0))


def test_a_cancelled_sequence_frees_its_places_at_once() -> None:
    batch = RunningBatch(small_model(seed=3), cache_tokens=20)
    first = joined(batch, prompt_of([], 10, seed=1))
    batch.step()
    assert batch.join(prompt_of([], 10, seed=2), **asked(0)) is None
    batch.leave(first)
    assert (first.finish, batch.cache.used) == ("cancelled", 0)
    second = joined(batch, prompt_of([], 10, seed=2))
    run(batch)
    assert second.finish == "length"
    assert batch.cache.used == 0


def test_what_was_used_last_is_evicted_last() -> None:
    batch = RunningBatch(small_model(seed=3), keep=40)
    prompts = [prompt_of([], 12, seed=i) for i in range(3)]
    for prompt in (prompts[0], prompts[1], prompts[0], prompts[2]):
        joined(batch, prompt, max_new_tokens=1)
        run(batch)
        assert sum(kept.places.size for kept in batch.kept) <= 40
    assert [joined(batch, prompt).cached for prompt in (prompts[0], prompts[2])] == [11, 11]
    assert joined(batch, prompts[1]).cached == 0


def test_log_probabilities_are_those_of_all_tokens() -> None:
    model = small_model(seed=3)
    seen: list[torch.Tensor] = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(output))
    batch = RunningBatch(model)
    sampling = Sampling(temperature=0.5, top_k=1, repetition_penalty=3.0)
    joined(batch, prompt_of([], 5, seed=1), sampling=sampling, logprobs=3, max_new_tokens=1)
    ((_, chosen),) = batch.step()
    expected = seen[0][0].log_softmax(-1)
    assert chosen.logprob == pytest.approx(float(expected[chosen.token]), rel=1e-5)
    assert [token for token, _ in chosen.top] == expected.topk(3).indices.tolist()
    assert [value for _, value in chosen.top] == pytest.approx(expected.topk(3).values.tolist())


def test_a_step_without_sequences_is_a_pass_all_the_same() -> None:
    model = small_model(seed=3)
    passes: list[int] = []
    model.register_forward_hook(lambda *_: passes.append(1))
    batch = RunningBatch(model)
    assert batch.step() == []
    assert (passes, batch.cache.layers) == ([1], {})


def test_nothing_is_evicted_for_what_would_find_no_room_all_the_same() -> None:
    batch = RunningBatch(small_model(seed=3), cache_tokens=60, keep=60)
    for i in range(3):
        joined(batch, prompt_of([], 6, seed=i), max_new_tokens=1)
        run(batch)
    holds = joined(batch, prompt_of([], 6, seed=9), max_new_tokens=20)
    kept = list(batch.kept)
    assert len(kept) == 3
    assert batch.join(prompt_of([], 6, seed=10), **asked(0, max_new_tokens=40)) is None
    assert batch.kept == kept
    batch.leave(holds)
    assert joined(batch, prompt_of([], 6, seed=10), max_new_tokens=55).places.size == 60
    assert batch.kept == []


def test_as_many_sequences_are_kept_as_may_be_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("neo_lightning.model.batch.MOST_KEPT", 2)
    batch = RunningBatch(small_model(seed=3), keep=1000)
    for i in range(3):
        joined(batch, prompt_of([], 6, seed=i), max_new_tokens=1)
        run(batch)
    assert [joined(batch, prompt_of([], 6, seed=i)).cached for i in range(3)] == [0, 5, 5]
