"""The network for transformers computes what the authors' code computed and what ours computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForImageTextToText

import neo_lightning.hf
from neo_lightning.checkpoint.export import export_model
from neo_lightning.hf.positions_neo_chat import mixed_mask
from tests.hf.model_support import documents, inputs, padded, twins
from tests.model.support import GOLDEN, IGNORE, pack, relative

ATTENTION = ("eager", "sdpa")


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("side", ["left", "right"])
def test_states_logits_loss_and_every_gradient_are_the_authors(attention: str, side: str) -> None:
    model = AutoModelForImageTextToText.from_pretrained(GOLDEN, attn_implementation=attention)
    golden = load_file(GOLDEN / "packed.safetensors")
    sizes = golden["seq_boundaries"].diff().tolist()

    def rows(name: str, value: float) -> torch.Tensor:
        return padded(list(golden[name].split(sizes)), value, side)

    mask = padded([torch.ones(n, dtype=torch.long) for n in sizes], 0, side)
    output = model(
        input_ids=rows("input_ids", 0),
        attention_mask=mask,
        pixel_values=golden["pixel_values"],
        grid_hw=golden["grid_hw"],
        labels=rows("labels", IGNORE),
        loss_weights=rows("loss_weight", 0.0),
        output_hidden_states=True,
    )
    assert len(output.hidden_states) == 5
    for i in range(3):  # the last one is behind the norm
        assert relative(output.hidden_states[i + 1][mask.bool()], golden[f"layer_{i:02d}"]) < 1e-5
    assert relative(output.logits[mask.bool()], golden["logits"]) < 1e-5
    assert relative(output.loss, golden["loss"][0]) < 1e-5
    output.loss.backward()
    expected = load_file(GOLDEN / "packed_grads.safetensors")
    assert {f"grad.{name}" for name, _ in model.named_parameters()} == set(expected)
    for name, parameter in model.named_parameters():
        assert relative(parameter.grad, expected[f"grad.{name}"]) < 1e-4, name


def test_the_mask_as_it_is_drawn() -> None:
    """Padding, which sees itself alone, text, a unit of two, text; behind a cache of one, with room for one more."""
    unit = torch.tensor([[-1, -1, 0, 0, -1]])
    visible = mixed_mask(unit, torch.tensor([[0, 0, 1, 1, 1, 1]]), 1, 7)
    drawn = [".x.....", "..x....", "..xxx..", "..xxx..", "..xxxx."]
    assert ["".join(".x"[int(value)] for value in row) for row in visible[0, 0]] == drawn


@pytest.mark.parametrize("tied", [False, True])
def test_a_training_step_is_ours(tied: bool) -> None:
    """Bytes as pixels, every token of text supervised; behind checkpoints of the layers too."""
    ours, theirs = twins(tie_word_embeddings=tied)
    docs, patches = documents(ours)
    labels = [torch.where(ids < 290, ids, torch.full_like(ids, IGNORE)) for ids, _ in docs]
    starts = [torch.cat([torch.full((1,), IGNORE), row[1:]]) for row in labels]  # nothing predicts a first token
    batch = pack(docs, ours.config.image_token_id, torch.cat(patches), torch.cat(starts))
    loss = ours(batch).loss_sum / batch.weights.sum()
    loss.backward()
    given = {**inputs(docs, patches, ours.config.image_token_id, "right"), "labels": padded(labels, IGNORE, "right")}
    theirs.train()
    for checkpointing in (False, True):
        theirs.zero_grad()
        if checkpointing:
            theirs.gradient_checkpointing_enable()
        output = theirs(**given)
        assert relative(output.loss, loss) < 1e-5
        assert len(output.to_tuple()) == (2 if checkpointing else 3), "a cache would be filled twice"
        output.loss.backward()
        found = dict(theirs.named_parameters())
        assert ("language_model.lm_head.weight" in found) == (not tied)
        for name, parameter in ours.named_parameters():
            assert relative(found[name].grad, parameter.grad) < 1e-4, name
    half = theirs(**given, num_items_in_batch=2 * int(batch.weights.sum()))
    assert relative(half.loss, loss / 2) < 1e-5


def test_checkpointing_runs_the_layers_again() -> None:
    _, theirs = twins()
    runs: list[int] = []
    theirs.language_model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: runs.append(1))
    theirs.train().gradient_checkpointing_enable()
    ids = torch.arange(6)[None]
    theirs(input_ids=ids, labels=ids).loss.backward()
    assert len(runs) == 2


def test_a_tied_export_has_one_table(tmp_path: Any) -> None:
    ours, _ = twins(tie_word_embeddings=True)
    export_model(ours, ours.config, tmp_path, dtype=torch.bfloat16)
    loaded, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, neo_lightning.hf.NEOChatModel)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert loaded.dtype == torch.bfloat16
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    loaded.save_pretrained(tmp_path / "saved")
    again = AutoModel.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.equal(again.get_output_embeddings().weight, loaded.get_input_embeddings().weight.float())


def test_flash_attention_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"an image sees itself whole\. Use attn_implementation='sdpa'"):
        AutoModel.from_pretrained(GOLDEN, attn_implementation="flash_attention_2")
    model = AutoModel.from_pretrained(GOLDEN)
    with pytest.raises(ValueError, match="an image sees itself whole"):
        model.set_attn_implementation("flash_attention_3")


def test_which_attention_is_asked_can_change() -> None:
    _, model = twins()
    ids = torch.arange(5)[None]
    with pytest.raises(ValueError, match="eager"):
        model(input_ids=ids, output_attentions=True)
    model.set_attn_implementation("eager")
    attentions = model(input_ids=ids, output_attentions=True).attentions
    assert [a.shape for a in attentions] == [(1, 4, 5, 5)] * 4
    assert torch.allclose(attentions[0].sum(-1), torch.ones(1, 4, 5))


def test_logits_of_some_places() -> None:
    _, model = twins()
    ids = torch.arange(12).view(2, 6)
    every = model(input_ids=ids).logits
    for keep, expected in (
        (2, every[:, -2:]),
        (torch.tensor([1, 4]), every[:, [1, 4]]),
        (torch.tensor([[5], [3]]), torch.stack([every[0, 5:], every[1, 3:4]])),
    ):
        assert torch.allclose(model(input_ids=ids, logits_to_keep=keep).logits, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid_hw": None}, "pixel_values need grid_hw"),
        ({"grid_hw": torch.tensor([[4, 4]])}, r"24 patches, grid_hw of 16, and 6 visual tokens"),
        ({"mm_token_type_ids": torch.zeros(1, 17)}, "24 patches, grid_hw of 24, and 0 visual tokens"),
        ({"position_ids": torch.zeros(1, 17)}, r"position_ids must be \[3, B, L\] = \[3, 1, 17\]"),
        ({"inputs_embeds": torch.zeros(1, 17, 64)}, "either input_ids or inputs_embeds"),
        ({"labels": torch.zeros(1, 17), "logits_to_keep": 1}, "leave logits_to_keep out"),
        ({"pixel_values": None, "grid_hw": None}, "6 visual tokens, but no grid_hw"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    ours, model = twins()
    docs, patches = documents(ours)
    given = inputs(docs[1:2], patches[1:2], ours.config.image_token_id)
    with pytest.raises(ValueError, match=message):
        model(**{**given, **change})


def test_images_of_one_row_do_not_fill_another() -> None:
    ours, model = twins()
    docs, patches = documents(ours)
    given = inputs(docs[1:3], patches[1:3], ours.config.image_token_id)
    assert given["grid_hw"].tolist() == [[4, 6], [2, 2], [6, 4]]
    given["grid_hw"] = given["grid_hw"][[1, 0, 2]]  # as many in all, but none ends where row 0 does
    with pytest.raises(ValueError, match=r"hold \[6, 7\] visual tokens, which images of \[1, 6, 6\] do not fill"):
        model(**given)


def test_without_a_token_id_the_types_say_what_is_visual() -> None:
    """Configs of NEO 1.0 have no `img_context_token_id`."""
    ours, model = twins()
    docs, patches = documents(ours)
    given = inputs(docs, patches, ours.config.image_token_id)
    expected = model(**given).logits
    model.config.img_context_token_id = None
    assert torch.equal(model(**given).logits, expected)
    del given["mm_token_type_ids"]
    with pytest.raises(ValueError, match="pass mm_token_type_ids, as the processor gives them"):
        model(**given)
