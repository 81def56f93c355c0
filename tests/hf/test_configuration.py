"""Configs: ours and the released ones are read, others are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

import neo_lightning.hf  # noqa: F401  registers
from neo_lightning.hf.configuration_neo_chat import NEOChatConfig
from neo_lightning.model.config import NeoConfig
from tests.hf.model_support import golden_dict


def released(**changes: Any) -> dict[str, Any]:
    """The golden config with sections changed: llm_config={...} adds to the section."""
    found = golden_dict()
    for name, value in changes.items():
        found[name] = {**found[name], **value} if isinstance(value, dict) else value
    return found


def test_every_field_of_ours_is_read(tmp_path: Path) -> None:
    """No default stands in for a value that is there."""
    ours = NeoConfig(
        vocab_size=321, hidden_size=36, intermediate_size=52, num_hidden_layers=5, extra_num_layers=3,
        num_attention_heads=6, num_key_value_heads=3, head_dim=12, rms_norm_eps=1e-5, rope_theta=5e5,
        rope_theta_hw=2e4, max_position_embeddings=77, max_position_embeddings_hw=78, tie_word_embeddings=False,
        patch_hidden_size=28, rope_theta_vision=3e4, image_token_id=11, image_start_token_id=12, min_pixels=4096,
        max_pixels=8192,
    )  # fmt: skip
    differing = {name for name, value in vars(ours).items() if value != getattr(NeoConfig(), name)}
    assert differing == set(vars(ours)) - {"design"}, "whose exports transformers does not read"
    (tmp_path / "config.json").write_text(json.dumps(ours.to_dict()))
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, NEOChatConfig)
    for name, value in ours.to_dict().items():
        assert isinstance(value, dict) or config.to_dict()[name] == value, name
    for section in ("llm_config", "vision_config"):
        for name, value in ours.to_dict()[section].items():
            assert name == "model_type" or config.to_dict()[section][name] == value, name
    config.save_pretrained(tmp_path / "saved")
    assert NeoConfig.from_dict(json.loads((tmp_path / "saved" / "config.json").read_text())) == ours
    assert AutoConfig.from_pretrained(tmp_path / "saved").to_diff_dict() == config.to_diff_dict()


def test_slips_of_released_files_are_read() -> None:
    config = NEOChatConfig(**released(vision_config={"llm_hidden_size": [64], "downsample_ratio": [0.5]}))
    assert config.to_dict() == NEOChatConfig(**golden_dict()).to_dict()


def test_what_neo_1_leaves_out_is_assumed_as_by_ours() -> None:
    tree = released(llm_config={"hidden_size": 2048, "num_hidden_layers": 40})
    for section, name in (("llm_config", "extra_num_layers"), ("llm_config", "rope_theta_hw")):
        del tree[section][name]
    for name in ("hidden_size", "rope_theta_vision"):
        del tree["vision_config"][name]
    theirs = NEOChatConfig(**tree)
    with pytest.warns(UserWarning, match="assumed: llm_config.extra_num_layers = 12"):
        ours = NeoConfig.from_dict(tree)
    assert theirs.llm_config.extra_num_layers == ours.extra_num_layers == 12
    assert theirs.llm_config.rope_theta_hw == ours.rope_theta_hw
    assert theirs.vision_config.hidden_size == ours.patch_hidden_size
    assert theirs.vision_config.rope_theta_vision == ours.rope_theta_vision


def test_rope_in_its_new_spelling_is_read() -> None:
    tree = released(llm_config={"rope_parameters": {"rope_type": "default", "rope_theta": 5e6}, "rope_scaling": None})
    del tree["llm_config"]["rope_theta"]
    assert NEOChatConfig(**tree).llm_config.rope_theta == 5e6


def test_what_caches_and_generation_ask_about() -> None:
    tree = released(
        llm_config={"layer_types": ["full_attention"] * 28, "sliding_window": None, "max_window_layers": 28}
    )
    config = NEOChatConfig(**tree)
    for text in (config.get_text_config(), config.get_text_config(decoder=True)):
        assert (text.num_hidden_layers, text.vocab_size, text.hidden_size) == (4, 320, 64)
        assert not hasattr(text, "layer_types"), "28 are the backbone's; a cache would lack the pre-buffer's"
    assert config.image_token_id == 300


@pytest.mark.parametrize(("section", "top", "tied"), [(True, False, True), (False, True, False), (None, True, True)])
def test_which_word_on_tying_counts(section: bool | None, top: bool, tied: bool) -> None:
    tree = released(tie_word_embeddings=top)
    del tree["llm_config"]["tie_word_embeddings"]
    if section is not None:
        tree["llm_config"]["tie_word_embeddings"] = section
    assert NEOChatConfig(**tree).tie_word_embeddings is tied
    ours = NeoConfig.from_dict({**tree, "llm_config": {**tree["llm_config"]}})
    assert ours.tie_word_embeddings is tied


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fm_head_dim": 1536}, "config.json has fm_head_dim: this is a SenseNova-U1"),
        ({"llm_config": {"num_experts": 128}}, "SenseNova-U1"),
        ({"llm_config": {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}}, "no scaled RoPE"),
        ({"llm_config": {"hidden_act": "gelu"}}, "llm_config: hidden_act is 'gelu'; NEO has 'silu'"),
        ({"llm_config": {"attention_bias": True}}, "attention_bias is True"),
        ({"llm_config": {"use_sliding_window": True}}, "use_sliding_window is True"),
        ({"vision_config": {"patch_size": 14}}, "vision_config: patch_size is 14; NEO has 16"),
        ({"downsample_ratio": 0.25}, "downsample_ratio is 0.25"),
    ],
)
def test_other_networks_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NEOChatConfig(**released(**changes))
