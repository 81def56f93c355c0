"""Generation: the authors' greedy tokens, the cache against whole forward passes, batches against single prompts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from neo_lightning.model.batch import RunningBatch
from neo_lightning.model.generate import generate, stream
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.sampling import Sampling, choose
from tests.model.support import GOLDEN, golden_config, golden_model, pack, random_document, random_patches, small_model


def prompt_of(tokens, grids, patches, image_token):
    return Prompt(input_ids=tokens, visual=tokens == image_token, grids=grids, patches=patches)


def golden_prompt(name):
    golden = load_file(GOLDEN / "generation.safetensors")
    image = golden_config().image_token_id
    prompt = prompt_of(
        golden[f"{name}.input_ids"], golden[f"{name}.grid_hw"] // 2, golden[f"{name}.pixel_values"], image
    )
    return prompt, golden[f"{name}.greedy_tokens"].tolist()


def random_prompts(config, shapes):
    prompts = []
    for i, (images, text) in enumerate(shapes):
        document = random_document(config, images, text, seed=10 + i)
        prompts.append(prompt_of(*document, random_patches([document], seed=i), config.image_token_id))
    return prompts


SHAPES = [([(2, 3)], 4), ([], 9), ([(1, 1), (3, 2), (2, 2)], 3), ([], 1)]


@pytest.mark.parametrize("name", ["one_image", "two_images"])
def test_greedy_tokens_are_the_authors(name):
    prompt, expected = golden_prompt(name)
    assert generate(golden_model(), [prompt], max_new_tokens=24) == [expected]


def test_both_golden_prompts_in_one_batch():
    pairs = [golden_prompt(name) for name in ("one_image", "two_images")]
    answers = generate(golden_model(), [prompt for prompt, _ in pairs], max_new_tokens=24)
    assert answers == [expected for _, expected in pairs]


def uncached(model, prompt, count):
    """Greedy tokens by whole forward passes over an ever longer document."""
    tokens = prompt.input_ids
    for _ in range(count):
        batch = pack([(tokens, prompt.grids)], model.config.image_token_id, prompt.patches)
        row = model.row(batch.positions, batch.start, batch.limit)
        x = model.embed(batch.input_ids, batch.visual_index, batch.patches, batch.grids)
        tokens = torch.cat([tokens, model.logits(model.hidden(x, row))[-1:].argmax(-1)])
    return tokens[prompt.input_ids.numel() :].tolist()


@torch.no_grad()
def test_cached_generation_equals_uncached_and_a_batch_equals_single_prompts():
    model = small_model(seed=3)
    prompts = random_prompts(model.config, SHAPES)
    together = generate(model, prompts, max_new_tokens=12)
    assert len({tuple(answer) for answer in together}) == len(prompts)
    for prompt, answer in zip(prompts, together, strict=True):
        assert generate(model, [prompt], max_new_tokens=12) == [answer]
        assert uncached(model, prompt, 12) == answer


def test_a_drawn_answer_does_not_depend_on_its_neighbours():
    model = small_model(seed=3)
    prompts = random_prompts(model.config, SHAPES)
    settings = {"max_new_tokens": 8, "temperature": 1.5, "top_p": 0.95, "seed": 7}
    together = generate(model, prompts, **settings)
    assert together == generate(model, prompts, **settings)
    assert together != generate(model, prompts, **{**settings, "seed": 8})
    assert generate(model, prompts[:1], **settings) == together[:1]


def test_an_answer_ends_before_its_stop_token_and_others_go_on():
    model = small_model(seed=3)
    prompts = random_prompts(model.config, SHAPES)
    free = generate(model, prompts, max_new_tokens=10)
    stop = free[1][4]
    stopped = generate(model, prompts, max_new_tokens=10, stop_ids=[stop])
    expected = [answer[: answer.index(stop)] if stop in answer else answer for answer in free]
    assert stopped == expected
    assert len(stopped[1]) <= 4 < max(map(len, stopped))


def test_streaming_gives_the_same_tokens_one_at_a_time():
    model = small_model(seed=3)
    prompts = random_prompts(model.config, SHAPES)
    answers = generate(model, prompts, max_new_tokens=5)
    heard = [[] for _ in prompts]
    for number, _, chosen in stream(RunningBatch(model), prompts, max_new_tokens=5, sampling=Sampling()):
        heard[number].append(chosen.token)
        assert max(map(len, heard)) - min(map(len, heard)) <= 1, "all sequences together"
    assert heard == answers


def test_prompts_that_cannot_be_continued_are_named():
    model = small_model()
    prompts = random_prompts(model.config, SHAPES)
    empty = Prompt(
        input_ids=torch.zeros(0, dtype=torch.long),
        visual=torch.zeros(0, dtype=torch.bool),
        grids=torch.zeros(0, 2),
        patches=torch.zeros(0, 768, dtype=torch.uint8),
    )
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        generate(model, [prompts[0], empty], max_new_tokens=1)
    short = Prompt(
        input_ids=prompts[0].input_ids,
        visual=prompts[0].visual,
        grids=prompts[0].grids,
        patches=prompts[0].patches[:-4],
    )
    with pytest.raises(ValueError, match="prompt 0 has 6 visual tokens"):
        generate(model, [short], max_new_tokens=1)
    with pytest.raises(ValueError, match="top_p"):
        generate(model, prompts, max_new_tokens=1, top_p=0.0)


LOGITS = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))


def frequencies(sampling, draws=4000):
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(0))
    tokens = choose(LOGITS.expand(draws, -1), sampling, None, uniform)
    return torch.bincount(tokens, minlength=4) / draws


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(temperature=1.0), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=0.5), [0.6849, 0.2466, 0.0616, 0.0068]),
        (Sampling(temperature=1.0, top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(temperature=1.0, top_p=0.9), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (Sampling(temperature=1.0, top_p=0.5), [1, 0, 0, 0]),
        (Sampling(temperature=0.0), [1, 0, 0, 0]),
    ],
)
def test_draws_follow_the_filtered_distribution(sampling, expected):
    observed = frequencies(sampling)
    assert torch.allclose(observed, torch.tensor(expected, dtype=torch.float32), atol=0.025)
    assert torch.all(observed[torch.tensor(expected) == 0] == 0)


def test_repetition_penalty_lowers_seen_tokens_of_either_sign():
    logits = torch.tensor([[2.0, 1.5, -1.0], [-1.0, -1.5, -3.0]])
    seen = torch.tensor([[True, False, False], [True, False, False]])
    assert choose(logits, Sampling(repetition_penalty=2.0), seen, None).tolist() == [1, 1]
    assert choose(logits, Sampling(), seen, None).tolist() == [0, 0]


def test_the_coldest_temperatures_take_the_likeliest_token_and_no_number_is_no_fault():
    uniform = torch.full((2,), 0.999)
    logits = torch.stack([3e2 * LOGITS.flip(0), torch.full((4,), float("nan"))])
    for temperature in (1e-5, 9e-6, 1e-38, 1e-45, 5e-324):
        tokens = choose(logits, Sampling(temperature=temperature), None, uniform).tolist()
        assert tokens[0] == 3
        assert 0 <= tokens[1] < 4
