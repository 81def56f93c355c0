"""config.json in and out, and refusals of networks that this code does not build."""

from __future__ import annotations

import json

import pytest

from neo_lightning.model.config import NeoConfig
from tests.model.support import GOLDEN, golden_config

RELEASED = json.loads((GOLDEN / "config.json").read_text())


def test_released_config_round_trip_keeps_every_value():
    written = golden_config().to_dict()
    assert NeoConfig.from_dict(written) == golden_config()
    for section in (None, "llm_config", "vision_config"):
        before, after = (RELEASED, written) if section is None else (RELEASED[section], written[section])
        for name, value in before.items():
            if name not in ("llm_config", "vision_config", "torch_dtype", "use_cache"):
                assert after[name] == value, (section, name)


def changed(section, **changes):
    config = json.loads(json.dumps(RELEASED))
    (config if section is None else config[section]).update(changes)
    return config


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (None, {"model_type": "qwen3"}, "expected model_type 'neo_chat', found 'qwen3'"),
        (None, {"downsample_ratio": 1.0}, "downsample_ratio is 1.0; only 0.5"),
        ("vision_config", {"patch_size": 14}, "patch_size is 14; only 16"),
        ("llm_config", {"attention_bias": True}, "attention_bias is True"),
        ("llm_config", {"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ("llm_config", {"rope_scaling": {"rope_type": "yarn", "factor": 4}}, "scaled RoPE is not supported"),
        ("llm_config", {"extra_num_layers": 5}, "extra_num_layers .5. must lie between 0 and num_hidden_layers"),
        ("llm_config", {"num_key_value_heads": 3}, "must divide num_attention_heads"),
        ("llm_config", {"head_dim": 30}, "head_dim must be a multiple of 4"),
        ("llm_config", {"hidden_size": 0}, "hidden_size must be at least 1"),
    ],
)
def test_other_networks_are_refused(section, changes, message):
    with pytest.raises(ValueError, match=message):
        NeoConfig.from_dict(changed(section, **changes))


@pytest.mark.parametrize("name", ["vocab_size", "rope_theta"])
def test_missing_fields_are_named(name):
    config = changed("llm_config")
    del config["llm_config"][name]
    with pytest.raises(ValueError, match=f"llm_config: field '{name}' is missing"):
        NeoConfig.from_dict(config)


@pytest.mark.parametrize(("width", "layers", "depth"), [(2048, 40, 12), (4096, 42, 6)])
def test_what_neo_1_leaves_out_is_assumed_and_said(width, layers, depth):
    config = changed("llm_config", hidden_size=width, num_hidden_layers=layers)
    for name in ("extra_num_layers", "rope_theta_hw"):
        del config["llm_config"][name]
    for name in ("hidden_size", "rope_theta_vision"):
        del config["vision_config"][name]
    for name in ("img_context_token_id", "img_start_token_id"):
        del config[name]
    with pytest.warns(UserWarning, match=f"llm_config.extra_num_layers = {depth}, .*img_start_token_id = 151670"):
        read = NeoConfig.from_dict(config)
    assert (read.extra_num_layers, read.rope_theta_hw, read.patch_hidden_size) == (depth, 1e4, 1024)
    assert (read.rope_theta_vision, read.image_token_id, read.image_start_token_id) == (1e4, 151669, 151670)


@pytest.mark.parametrize(("width", "layers"), [(64, 4), (2048, 12)])
def test_a_pre_buffer_that_cannot_be_known_is_asked_for(width, layers):
    config = changed("llm_config", hidden_size=width, num_hidden_layers=layers)
    del config["llm_config"]["extra_num_layers"]
    with pytest.raises(ValueError, match=f"'extra_num_layers' is missing, and the {layers} layers of width {width}"):
        NeoConfig.from_dict(config)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_is_tied_where_the_config_says_so(tied):
    config = changed("llm_config", tie_word_embeddings=tied)
    read = NeoConfig.from_dict(config)
    assert read.tie_word_embeddings is tied
    assert NeoConfig.from_dict(read.to_dict()) == read
    llm = config["llm_config"]
    assert NeoConfig.qwen3(llm, extra_num_layers=1).tie_word_embeddings is tied
    del llm["tie_word_embeddings"]
    assert not NeoConfig.qwen3(llm, extra_num_layers=1).tie_word_embeddings
    config["tie_word_embeddings"] = tied
    assert NeoConfig.from_dict(config).tie_word_embeddings is tied, "said outside"


def test_both_spellings_of_rope_are_read():
    llm = dict(RELEASED["llm_config"])
    theta = llm.pop("rope_theta")
    new = {**llm, "rope_parameters": {"rope_theta": theta / 2, "rope_type": "default"}}
    assert NeoConfig.qwen3(new, extra_num_layers=1).rope_theta == theta / 2
    assert NeoConfig.qwen3({**llm, "rope_theta": theta}, extra_num_layers=1).rope_theta == theta
    assert NeoConfig.qwen3({**llm, "rope_theta": theta}, extra_num_layers=3).num_hidden_layers == 7
