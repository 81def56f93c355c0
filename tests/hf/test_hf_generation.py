"""`generate` of transformers over NEO gives our tokens, in batches of any padding, with any cache and search."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, StaticCache

from neo_lightning.hf.modeling_neo_chat import NEOChatModel
from neo_lightning.model.generate import generate
from tests.hf.model_support import Document, documents, inputs, prompts, twins
from tests.model.support import GOLDEN

NEW = 12
IMAGE = 300


def greedy(model: NEOChatModel, given: Any, **changes: Any) -> list[list[int]]:
    """The new tokens of each row; none ends early."""
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **changes}
    found = model.generate(**given, **settings)
    return found[:, given["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def asked(request: pytest.FixtureRequest) -> tuple[NEOChatModel, list[Document], list[Tensor], list[list[int]]]:
    """A model, what it is asked, and our answers. They hold tokens that stand for pixels in a prompt, as text."""
    ours, theirs = twins(seed=3, attention=request.param)
    with torch.no_grad():
        for model in (ours, theirs):
            model.language_model.lm_head.weight[IMAGE] *= 2
    docs, patches = documents(ours, seed=1)
    answers = generate(ours, prompts(ours, docs, patches), max_new_tokens=NEW)
    assert any(IMAGE in answer for answer in answers)
    assert len({tuple(answer) for answer in answers}) == len(docs)
    return theirs, docs, patches, answers


def test_the_authors_greedy_tokens() -> None:
    golden = load_file(GOLDEN / "generation.safetensors")
    model = AutoModelForImageTextToText.from_pretrained(GOLDEN)
    for name in ("one_image", "two_images"):
        given = {k: golden[f"{name}.{k}"] for k in ("pixel_values", "grid_hw")}
        given["input_ids"] = golden[f"{name}.input_ids"][None]
        assert greedy(model, given, max_new_tokens=24) == [golden[f"{name}.greedy_tokens"].tolist()]


@pytest.mark.parametrize("cache", ["dynamic", "static", None])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_gives_our_tokens(asked: Any, side: str, cache: str | None) -> None:
    model, docs, patches, answers = asked
    how: dict[str, Any] = {"cache_implementation": cache} if cache else {"use_cache": False}
    assert greedy(model, inputs(docs, patches, IMAGE, side), **how) == answers


def test_each_alone_gives_our_tokens(asked: Any) -> None:
    """With token types of the processor or by the config's token id, and without a mask."""
    model, docs, patches, answers = asked
    for i, answer in enumerate(answers):
        given = inputs(docs[i : i + 1], patches[i : i + 1], IMAGE)
        assert greedy(model, given) == [answer]
        assert greedy(model, {k: v for k, v in given.items() if "mask" not in k and "type" not in k}) == [answer]


def test_pixels_go_through_the_model_once(asked: Any) -> None:
    model, docs, patches, _ = asked
    seen: list[int] = []
    hook = model.vision_model.embeddings.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    greedy(model, inputs(docs, patches, IMAGE))
    hook.remove()
    assert seen == [sum(map(len, patches))]


def test_what_follows_an_image_at_once_is_text(asked: Any) -> None:
    """The prompt's last token has a row and a column; the new ones have none."""
    model, docs, patches, _ = asked
    ids, grids = docs[1]
    cut = (ids[: int((ids == IMAGE).nonzero().max()) + 1], grids)
    ours, _ = twins(seed=3)
    with torch.no_grad():
        ours.language_model.lm_head.weight[IMAGE] *= 2
    answers = generate(ours, prompts(ours, [cut], patches[1:2]), max_new_tokens=NEW)
    assert greedy(model, inputs([cut], patches[1:2], IMAGE)) == answers


def paths(model: NEOChatModel, docs: list[Document], patches: list[Tensor], sequences: Tensor, each: int) -> Tensor:
    """[rows, NEW, V] log-probabilities along given answers, from one pass each over prompt and answer."""
    found = []
    for row, sequence in enumerate(sequences):
        given = inputs(docs[row // each : row // each + 1], patches[row // each : row // each + 1], IMAGE)
        new = sequence[-NEW:][None]
        given["input_ids"] = torch.cat([given["input_ids"], new], 1)
        given["mm_token_type_ids"] = torch.cat([given["mm_token_type_ids"], torch.zeros_like(new)], 1)
        del given["attention_mask"]
        with torch.no_grad():
            found.append(model(**given).logits[0, -NEW - 1 : -1].log_softmax(-1))
    return torch.stack(found)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_beams_score_what_they_find(asked: Any, cache: str) -> None:
    model, docs, patches, answers = asked
    how = {"num_beams": 3, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, "length_penalty": 0.0}
    found = model.generate(
        **inputs(docs, patches, IMAGE),
        **how,
        cache_implementation=cache,
        num_return_sequences=2,
        return_dict_in_generate=True,
        output_scores=True,
    )
    likely = paths(model, docs, patches, found.sequences, 2)
    sums = likely.gather(2, found.sequences[:, -NEW:, None]).sum((1, 2))
    assert torch.allclose(found.sequences_scores, sums, atol=1e-3)
    alone = [model.generate(**inputs(docs[i : i + 1], patches[i : i + 1], IMAGE), **how)[0, -NEW:] for i in range(4)]
    assert torch.equal(found.sequences[::2, -NEW:], torch.stack(alone))
    assert found.sequences[::2, -NEW:].tolist() != answers, "beams that find what greed finds say nothing"


def test_samples_are_drawn_from_what_the_model_says(asked: Any) -> None:
    model, docs, patches, answers = asked
    given = inputs(docs, patches, IMAGE)
    assert greedy(model, given, do_sample=True, top_k=1) == answers
    torch.manual_seed(0)
    found = model.generate(
        **given,
        do_sample=True,
        top_k=0,
        max_new_tokens=NEW,
        pad_token_id=0,
        num_return_sequences=3,
        return_dict_in_generate=True,
        output_logits=True,
    )
    said = torch.stack(found.logits, 1).log_softmax(-1)
    assert torch.allclose(said, paths(model, docs, patches, found.sequences, 3), atol=1e-3)
    assert len({tuple(row) for row in found.sequences[:3, -NEW:].tolist()}) == 3


def test_a_cache_goes_on_in_a_second_turn(asked: Any) -> None:
    """The prompt again, its answer and a question more: only what is new goes through the model."""
    model, docs, patches, _ = asked
    given = inputs(docs[2:3], patches[2:3], IMAGE)
    cache = StaticCache(config=model.config, max_cache_len=80)
    first = model.generate(**given, max_new_tokens=4, do_sample=False, pad_token_id=0, past_key_values=cache)
    more = torch.cat([first, torch.tensor([[5, 6, 7]])], 1)
    again = {"input_ids": more, "pixel_values": given["pixel_values"], "grid_hw": given["grid_hw"]}
    types = torch.zeros_like(more)
    types[:, : given["input_ids"].shape[1]] = given["mm_token_type_ids"]
    again["mm_token_type_ids"] = types
    expected = greedy(model, again)
    assert greedy(model, again, past_key_values=cache) == expected
    with pytest.raises(ValueError, match="position_ids"):
        model(input_ids=torch.tensor([[1]]), past_key_values=cache)


def test_a_cache_that_ends_in_front_of_an_image_is_refused(asked: Any) -> None:
    model, docs, patches, _ = asked
    given = inputs(docs[1:2], patches[1:2], IMAGE)
    cache = model(input_ids=given["input_ids"][:, :3], use_cache=True).to_tuple()[1]
    with pytest.raises(ValueError, match="the cache ends in front of an image"):
        greedy(model, given, past_key_values=cache)
