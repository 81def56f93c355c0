"""Invariants of the whole network: documents do not touch, images see both ways, every rank runs every module."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from neo_lightning.model.neo import Neo
from neo_lightning.types import IGNORE, PackedBatch
from tests.model.support import (
    golden_batch,
    golden_model,
    pack,
    random_batch,
    random_document,
    random_patches,
    relative,
    small_config,
    small_model,
)

IMAGES = [[(2, 3)], [], [(1, 2), (3, 2)]]


@torch.no_grad()
def logits_of(model: Neo, batch: PackedBatch) -> torch.Tensor:
    row = model.row(batch.positions, batch.start, batch.limit)
    return model.logits(model.hidden(model.embed(batch.input_ids, batch.visual_index, batch.patches, batch.grids), row))


def gradients(model: Neo, batch: PackedBatch) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(batch).loss_sum.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("attention", ["reference", "tiled"])
def test_one_documents_tokens_and_pixels_leave_the_others_logits_bit_identical(attention):
    model = small_model(attention=attention)
    batch = random_batch(model.config, IMAGES)
    before = logits_of(model, batch)
    document = batch.start == batch.start.unique()[0]
    ids, patches = batch.input_ids.clone(), batch.patches.clone()
    text = document & (ids < 290)
    ids[text] = (ids[text] + 1) % 290
    patches[: 4 * 6] = 255 - patches[: 4 * 6]  # the first document's image
    after = logits_of(model, replace(batch, input_ids=ids, patches=patches))
    assert 0 < int(document.sum()) < document.numel()
    assert torch.equal(before[~document], after[~document])
    assert not torch.isclose(before[document], after[document]).all(-1).any()


def test_packing_documents_gives_each_what_it_gets_alone():
    model = small_model()
    documents = [random_document(model.config, images, 5, seed=i) for i, images in enumerate(IMAGES)]
    image = model.config.image_token_id
    patches = [random_patches([d], seed=i) for i, d in enumerate(documents)]
    packed = logits_of(model, pack(documents, image, torch.cat(patches)))
    alone = [logits_of(model, pack([d], image, p)) for d, p in zip(documents, patches, strict=True)]
    assert relative(packed, torch.cat(alone)) < 1e-5


def moved_by(model, batch, place):
    """Which logits change when the patches of the visual token number `place` change."""
    patches = batch.patches.clone()
    row, column = divmod(place, int(batch.grids[0, 1]) // 2)
    corner = 2 * row * int(batch.grids[0, 1]) + 2 * column
    patches[corner] = 255 - patches[corner]
    difference = logits_of(model, replace(batch, patches=patches)) - logits_of(model, batch)
    return difference.abs().amax(-1) > 1e-7


def test_image_tokens_see_each_other_and_text_sees_only_what_came_before():
    model = small_model()
    batch = random_batch(model.config, [[(2, 3)]], text=4)
    visual = batch.visual_index
    for place in (0, 5):
        moved = moved_by(model, batch, place)
        assert not moved[: visual[0]].any()
        assert moved[visual[0] :].all(), "the whole image and everything behind it"
    ids = batch.input_ids.clone()
    ids[-1] += 1
    after = logits_of(model, replace(batch, input_ids=ids))
    assert torch.equal(after[:-1], logits_of(model, batch)[:-1])


def test_height_and_width_matter_to_the_scores():
    model = small_model()
    batch = random_batch(model.config, [[(2, 3)]])
    positions = batch.positions.clone()
    positions[:, 1:] = 0
    assert relative(logits_of(model, replace(batch, positions=positions)), logits_of(model, batch)) > 1e-3


def test_padding_changes_neither_loss_nor_gradients():
    model = small_model()
    batch = random_batch(model.config, IMAGES)
    t, pad = batch.input_ids.numel(), 37
    padded = replace(
        batch,
        input_ids=torch.cat([batch.input_ids, torch.zeros(pad, dtype=torch.long)]),
        positions=torch.cat([batch.positions, torch.arange(pad, dtype=torch.int32)[:, None] * torch.tensor([1, 0, 0])]),
        start=torch.cat([batch.start, torch.full((pad,), t, dtype=torch.int32)]),
        limit=torch.cat([batch.limit, torch.arange(t + 1, t + pad + 1, dtype=torch.int32)]),
        targets=torch.cat([batch.targets, torch.full((pad,), IGNORE)]),
        weights=torch.cat([batch.weights, torch.zeros(pad)]),
        modality=torch.cat([batch.modality, torch.zeros(pad, dtype=torch.long)]),
    )
    before, after = gradients(model, batch), gradients(model, padded)
    assert torch.allclose(model(batch).loss_sum, model(padded).loss_sum, rtol=1e-6)
    assert all(relative(after[name], before[name]) < 1e-4 for name in before)


def test_a_row_without_pixels_still_runs_the_patch_embedding_with_a_gradient_of_zero():
    model = small_model()
    batch = random_batch(model.config, [[], []])
    assert batch.visual_index.numel() == 0
    assert batch.patches.shape[0] == 4
    found = gradients(model, batch)
    assert set(found) == {name for name, _ in model.named_parameters()}
    for name, gradient in found.items():
        assert torch.all(gradient == 0) == name.startswith("vision_model."), name


def test_output_names_the_supervised_tokens():
    model = small_model()
    batch = random_batch(model.config, IMAGES)
    output = model(batch)
    assert torch.equal(output.places, (batch.targets != IGNORE).nonzero()[:, 0])
    assert output.nll.numel() == output.places.numel() > 10
    loss = (output.nll * batch.weights[output.places]).sum()
    assert torch.allclose(loss, output.loss_sum)
    expected = torch.nn.functional.cross_entropy(logits_of(model, batch), batch.targets, reduction="none")
    assert torch.allclose(output.nll, expected[output.places], atol=1e-5)


def test_a_tied_head_is_the_embedding_table():
    model = small_model(tie_word_embeddings=True)
    assert not any("lm_head" in name for name in model.state_dict())
    assert model.head_weight is model.language_model.model.embed_tokens.weight
    batch = random_batch(model.config, IMAGES)
    untied = small_model(tie_word_embeddings=False)
    untied.load_state_dict(model.state_dict() | {"language_model.lm_head.weight": model.head_weight})
    tied, apart = gradients(model, batch), gradients(untied, batch)
    name = "language_model.model.embed_tokens.weight"
    assert torch.allclose(tied[name], apart[name] + apart["language_model.lm_head.weight"], atol=1e-5)


def test_frozen_parameters_get_no_gradient_and_the_others_the_same():
    model = small_model()
    batch = random_batch(model.config, IMAGES)
    everything = gradients(model, batch)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("_hw" in name or "norm_h" in name or name.startswith("vision_model"))
    some = gradients(model, batch)
    assert set(some) == {name for name, p in model.named_parameters() if p.requires_grad}
    assert 0 < len(some) < len(everything)
    assert all(relative(some[name], everything[name]) < 1e-5 for name in some)


def test_activation_checkpointing_of_layers_changes_no_gradient():
    model = small_model()
    batch = random_batch(model.config, IMAGES)
    before = gradients(model, batch)
    for layer in model.layers:
        inner = layer.forward
        layer.forward = lambda x, row, inner=inner: checkpoint(inner, x, row, use_reentrant=False)
    after = gradients(model, batch)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_bfloat16_under_autocast_and_as_parameters_stays_close():
    model = golden_model()
    batch, _ = golden_batch()
    exact = model(batch).loss_sum
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(batch).loss_sum
    mixed.backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())
    low = model.to(torch.bfloat16)(batch).loss_sum
    assert mixed.dtype == low.dtype == torch.float32
    assert mixed.item() == pytest.approx(exact.item(), rel=2e-2)
    assert low.item() == pytest.approx(exact.item(), rel=2e-2)


def test_from_the_meta_device_the_same_seed_gives_the_same_model():
    with torch.device("meta"):
        model = Neo(small_config())
    model.to_empty(device="cpu")
    model.init_weights(seed=4)
    direct = Neo(small_config())
    direct.init_weights(seed=4)
    other = Neo(small_config())
    other.init_weights(seed=5)
    for (name, a), b, c in zip(model.named_parameters(), direct.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert torch.equal(a, c) == (a.dim() == 1), name
    assert model.layers[1].self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert torch.isfinite(model(random_batch(model.config, IMAGES)).loss_sum)


def test_another_deviation_is_the_backbones_alone():
    usual, wide = Neo(small_config()), Neo(small_config())
    usual.init_weights(seed=4)
    wide.init_weights(seed=4, std=0.05)
    fresh = tuple(f"language_model.model.layers.{i}." for i in range(usual.config.extra_num_layers))
    assert fresh
    for (name, a), b in zip(usual.named_parameters(), wide.parameters(), strict=True):
        backbones = a.dim() > 1 and not name.startswith(("vision_model.", *fresh))
        torch.testing.assert_close(b, 2.5 * a if backbones else a, rtol=1e-5, atol=0)


def test_closed_height_and_width_leave_text_as_without_them():
    model = Neo(small_config())
    model.init_weights(seed=4, closed_hw=True)
    depth = model.config.extra_num_layers
    for i, layer in enumerate(model.layers):
        assert torch.all(layer.self_attn.k_norm_h.weight == (1 if i < depth else 0))
        assert torch.all(layer.self_attn.q_norm_h.weight == 1)


@pytest.mark.slow
def test_layers_compile_and_step_out_for_attention_only():
    torch._dynamo.reset()
    model = small_model(num_hidden_layers=1, extra_num_layers=0)
    batch = random_batch(model.config, IMAGES)
    before = gradients(model, batch)
    model.layers[0].compile(backend="aot_eager")
    after = gradients(model, batch)
    assert all(relative(after[name], before[name]) < 1e-5 for name in before)
