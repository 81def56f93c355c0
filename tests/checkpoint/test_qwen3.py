"""Growing a NEO from a Qwen3: exactly Qwen3's logits on text, whatever the rule."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from neo_lightning.checkpoint.qwen3 import pre_buffer_depth, qwen3_config, qwen3_state
from neo_lightning.model.neo import Neo
from neo_lightning.training.build import Init, fill_parameters, read_config
from tests.model.support import pack, relative
from tests.tiny_models import tiny_qwen3

IDS = torch.randint(0, 300, (23,), generator=torch.Generator().manual_seed(1))
NEO_FIELDS = {"patch_hidden_size": 16, "image_token_id": 318, "image_start_token_id": 319}


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def qwen3(request, tmp_path_factory):
    """A random Qwen3 with norms away from one, saved by transformers."""
    folder = tmp_path_factory.mktemp("qwen3")
    model = tiny_qwen3(folder, vocab_size=320, num_attention_heads=4, tie_word_embeddings=request.param)
    return model, folder


def grown(folder, extra, rule):
    model = Neo(qwen3_config(folder, extra, **NEO_FIELDS))
    fill_parameters(model, qwen3_state(shapes_of(model), model.config, folder, rule, seed=5))
    return model


def shapes_of(model):
    return {name: parameter.shape for name, parameter in model.named_parameters()}


def text_batch():
    return pack([(IDS, torch.zeros(0, 2, dtype=torch.int32))], 318, torch.zeros(0, 768, dtype=torch.uint8))


@torch.no_grad()
@pytest.mark.parametrize("rule", ["zero_k", "smooth"])
def test_without_a_pre_buffer_text_logits_are_qwen3s(qwen3, rule):
    theirs, folder = qwen3
    ours = grown(folder, 0, rule)
    batch = text_batch()
    row = ours.row(batch.positions, batch.start, batch.limit)
    logits = ours.logits(ours.hidden(ours.embed(batch.input_ids), row))
    assert relative(logits, theirs(IDS[None]).logits[0]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("rule", ["zero_k", "smooth"])
def test_behind_a_pre_buffer_every_layer_is_its_qwen3_layer(qwen3, rule):
    theirs, folder = qwen3
    ours = grown(folder, 2, rule)
    assert len(ours.layers) == 5
    batch = text_batch()
    row = ours.row(batch.positions, batch.start, batch.limit)
    x = torch.randn(23, 48, generator=torch.Generator().manual_seed(2))
    rotary = theirs.model.rotary_emb(x[None], torch.arange(23)[None])
    mask = torch.full((23, 23), float("-inf")).triu(1)[None, None]
    for i, layer in enumerate(theirs.model.layers):
        expected = layer(x[None], attention_mask=mask, position_embeddings=rotary)
        expected = expected[0] if isinstance(expected, tuple) else expected
        assert relative(ours.layers[2 + i](x, row), expected[0]) < 1e-5, f"layer {i}"
        assert relative(ours.layers[0](x, row), expected[0]) > 1e-2


@torch.no_grad()
def test_rules_set_the_added_parts_as_written(qwen3):
    theirs, folder = qwen3
    papers, smooth = grown(folder, 2, "zero_k"), grown(folder, 2, "smooth")
    attention = theirs.model.layers[1].self_attn
    for model in (papers, smooth):
        ours = model.layers[3].self_attn
        heads = ours.q_proj_hw.weight.view(4, 2, 8, 48)  # 4 heads; H and W; 8 rows
        source = attention.q_proj.weight.view(4, 16, 48)
        quarters = torch.cat([source[:, 0:4], source[:, 8:12]], 1)
        assert torch.equal(heads[:, 0], quarters)
        assert torch.equal(heads[:, 1], quarters)
        assert torch.all(ours.q_norm_h.weight == 1)
        assert torch.all(ours.q_norm_w.weight == 1)
    assert torch.all(papers.layers[3].self_attn.k_proj_hw.weight == 0)
    assert torch.all(papers.layers[3].self_attn.k_norm_h.weight == 1)
    assert torch.all(smooth.layers[3].self_attn.k_norm_h.weight == 0)
    assert torch.all(smooth.layers[3].self_attn.k_norm_w.weight == 0)
    assert torch.all(smooth.layers[0].self_attn.k_norm_h.weight == 1), "the pre-buffer starts open"
    expected = attention.k_proj.weight.view(2, 4, 4, 48)[:, [0, 2, 0, 2]].reshape(32, 48)
    assert torch.equal(smooth.layers[3].self_attn.k_proj_hw.weight, expected)
    assert papers.layers[0].self_attn.q_proj.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_the_added_parts_learn_from_the_first_step(qwen3):
    for rule, moved in (("zero_k", "k_proj_hw"), ("smooth", "k_norm_h")):
        model = grown(qwen3[1], 1, rule)
        targets = torch.cat([IDS[1:], IDS[:1]])
        batch = dataclasses.replace(text_batch(), targets=targets, weights=torch.ones(23))
        model(batch).loss_sum.backward()
        attention = model.layers[2].self_attn
        assert attention.get_submodule(moved).weight.grad.norm() > 0, rule


def test_a_backbone_of_another_shape_is_refused_with_the_differences(qwen3, tmp_path):
    from dataclasses import replace

    _, folder = qwen3
    config = replace(qwen3_config(folder, 2, **NEO_FIELDS), num_hidden_layers=6, rms_norm_eps=1e-5)
    with pytest.raises(ValueError, match="does not fit") as error:
        qwen3_state(shapes_of(Neo(config)), config, folder)
    assert "rms_norm_eps: the backbone has 1e-06, the model 1e-05" in str(error.value)
    assert "layers: the backbone has 3, the model 4 post-LLM" in str(error.value)
    with pytest.raises(ValueError, match="rule 'zero' is unknown; there are: zero_k, smooth"):
        grown(folder, 1, "zero")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "neo_chat"}))
    with pytest.raises(ValueError, match="expected model_type 'qwen3'"):
        qwen3_config(tmp_path, 1)


@pytest.mark.parametrize(
    ("width", "layers"), [(1024, 12), (2048, 12), (2560, 10), (4096, 6), (5120, 5), (100_000, 1), (48, 12)]
)
def test_the_pre_buffer_of_a_backbone_follows_the_released_sizes(width, layers):
    """Qwen3-0.6B, 1.7B (released: 12), 4B, 8B (released: 6), 14B and 32B; and no width without any layer."""
    assert pre_buffer_depth(width) == layers


def test_every_size_is_the_backbones(qwen3):
    theirs, folder = qwen3
    config = qwen3_config(folder)
    assert (config.extra_num_layers, config.post_layers) == (12, 3)
    for name in ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        assert getattr(config, name) == getattr(theirs.config, name)
    assert (config.head_dim, config.tie_word_embeddings) == (16, theirs.config.tie_word_embeddings)
    init = Init(kind="qwen3", folder=str(folder))
    assert read_config(None, init) == config
    changed = read_config({"extra_num_layers": 2, "patch_hidden_size": 16}, init)
    assert (changed.extra_num_layers, changed.post_layers, changed.patch_hidden_size) == (2, 3, 16)
    assert read_config("neo_ov_2b", init).hidden_size == 2048, "a model that is named is checked, not replaced"
