"""Configuration of NEO and NEO-ov (model_type `neo_chat`): the released `config.json`, read as it is.

    NEOChatConfig
      llm_config      NEOChatTextConfig     a Qwen3 with rope_theta_hw and a pre-buffer in front
      vision_config   NEOChatVisionConfig   the patch embedding

Other networks use the same model_type. What is recognised of them here is refused; the tensors decide in any case (NEO
has `q_proj_hw` in every layer).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.configuration_utils import PretrainedConfig

_OF_SENSENOVA_U1 = ("fm_head_layers", "fm_head_dim", "noise_scale", "use_pixel_head", "concat_time_token_num")
"""Fields of its image generation branch."""

_QWEN3_LAYERS = {1024: 28, 2048: 28, 2560: 36, 4096: 36}
"""Width of a Qwen3 (0.6B, 1.7B, 4B, 8B) -> its layers."""


class NEOChatTextConfig(PretrainedConfig):
    """The decoder. Defaults are those of NEO-ov 2B (on Qwen3-1.7B).

    Args:
        num_hidden_layers: all layers, the pre-buffer's `extra_num_layers` among them; they come first.
        extra_num_layers: None (NEO 1.0's files do not have it): those beyond a Qwen3 of this width.
        head_dim: width of a head's T axis and of its value; H and W are half as wide each.
        rope_theta, rope_theta_hw: bases of the rotary frequencies of T, and of H and W.
        rope_parameters, rope_scaling: where newer and older Qwen3 configs may put `rope_theta`.

    Raises:
        ValueError: a field asks for a network that NEO is not.
    """

    model_type = "neo_chat_text"
    base_config_key = "llm_config"

    def __init__(
        self,
        vocab_size: int = 151936,
        hidden_size: int = 2048,
        intermediate_size: int = 6144,
        num_hidden_layers: int = 40,
        extra_num_layers: int | None = None,
        num_attention_heads: int = 16,
        num_key_value_heads: int = 8,
        head_dim: int = 128,
        rms_norm_eps: float = 1e-6,
        rope_theta: float | None = None,
        rope_theta_hw: float = 10000.0,
        max_position_embeddings: int = 40960,
        max_position_embeddings_hw: int = 10000,
        initializer_range: float = 0.02,
        rope_parameters: dict[str, Any] | None = None,
        rope_scaling: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        rope = rope_parameters or rope_scaling or {}
        if rope.get("rope_type", rope.get("type", "default")) != "default":
            raise ValueError(f"llm_config: NEO has no scaled RoPE, found {rope}")
        if kwargs.get("num_experts") or kwargs.get("gen_num_experts"):
            raise ValueError("llm_config: it has num_experts, so this is a SenseNova-U1 (mixture of experts), no NEO")
        _refuse_other(kwargs, "llm_config", hidden_act="silu", attention_bias=False, use_sliding_window=False)
        # they say nothing more, and caches would take them for layers that forget
        for name in ("layer_types", "sliding_window", "max_window_layers"):
            kwargs.pop(name, None)
        kwargs.pop("model_type", None)  # "qwen3" in the released files
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.intermediate_size = intermediate_size
        self.num_hidden_layers = num_hidden_layers
        if extra_num_layers is None:
            extra_num_layers = max(0, num_hidden_layers - _QWEN3_LAYERS.get(hidden_size, num_hidden_layers))
        self.extra_num_layers = extra_num_layers
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.rms_norm_eps = rms_norm_eps
        self.rope_theta = float(rope.get("rope_theta", 1e6 if rope_theta is None else rope_theta))
        self.rope_theta_hw = float(rope_theta_hw)
        self.max_position_embeddings = max_position_embeddings
        self.max_position_embeddings_hw = max_position_embeddings_hw
        self.initializer_range = initializer_range
        super().__init__(**kwargs)


class NEOChatVisionConfig(PretrainedConfig):
    """The patch embedding: two convolutions with kernel = stride (16, then 2) and a 2D rotary embedding between them.

    Args:
        hidden_size: channels between the convolutions; a multiple of 4.
        rope_theta_vision: base of the rotary frequencies.
        min_pixels, max_pixels: area to which the processor enlarges or shrinks an image.
        llm_hidden_size, downsample_ratio: may be lists of one element, as a slip in released files has them.

    Raises:
        ValueError: a field asks for a network that NEO is not.
    """

    model_type = "neo_chat_vision"
    base_config_key = "vision_config"

    def __init__(
        self,
        num_channels: int = 3,
        patch_size: int = 16,
        hidden_size: int = 1024,
        llm_hidden_size: int | list[int] = 2048,
        downsample_ratio: float | list[float] = 0.5,
        rope_theta_vision: float = 10000.0,
        max_position_embeddings_vision: int = 10000,
        min_pixels: int = 65536,
        max_pixels: int = 4194304,
        **kwargs: Any,
    ) -> None:
        kwargs.pop("model_type", None)  # "neo_vision" in the released files
        self.num_channels = num_channels
        self.patch_size = patch_size
        self.hidden_size = hidden_size
        self.llm_hidden_size = _only(llm_hidden_size)
        self.downsample_ratio = _only(downsample_ratio)
        self.rope_theta_vision = float(rope_theta_vision)
        self.max_position_embeddings_vision = max_position_embeddings_vision
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        _refuse_other(vars(self), "vision_config", num_channels=3, patch_size=16, downsample_ratio=0.5)
        super().__init__(**kwargs)


class NEOChatConfig(PretrainedConfig):
    """A NEO network.

    Args:
        llm_config, vision_config: their sections; None takes the defaults.
        img_context_token_id: the tokenizer's `<IMG_CONTEXT>`, one per visual token. None (NEO 1.0's files do not have
            it): the model then takes `mm_token_type_ids`, which the processor gives, or `chat` asks the tokenizer.
        img_start_token_id: the tokenizer's `<img>`.

    Raises:
        ValueError: it is the config of a SenseNova-U1, or see the sections.
    """

    model_type = "neo_chat"
    sub_configs = {"llm_config": NEOChatTextConfig, "vision_config": NEOChatVisionConfig}  # noqa: RUF012
    attribute_map = {"image_token_id": "img_context_token_id"}  # noqa: RUF012

    def __init__(
        self,
        llm_config: dict[str, Any] | NEOChatTextConfig | None = None,
        vision_config: dict[str, Any] | NEOChatVisionConfig | None = None,
        img_context_token_id: int | None = None,
        img_start_token_id: int | None = None,
        downsample_ratio: float | list[float] = 0.5,
        **kwargs: Any,
    ) -> None:
        if found := [name for name in _OF_SENSENOVA_U1 if name in kwargs]:
            raise ValueError(f"config.json has {', '.join(found)}: this is a SenseNova-U1, which also generates images")
        if not isinstance(llm_config, NEOChatTextConfig):
            llm_config = NEOChatTextConfig(**(llm_config or {}))
        if not isinstance(vision_config, NEOChatVisionConfig):
            vision_config = NEOChatVisionConfig(**{"llm_hidden_size": llm_config.hidden_size, **(vision_config or {})})
        self.llm_config, self.vision_config = llm_config, vision_config
        self.img_context_token_id, self.img_start_token_id = img_context_token_id, img_start_token_id
        self.downsample_ratio = _only(downsample_ratio)
        _refuse_other(vars(self), "config.json", downsample_ratio=0.5)
        # the section's word counts, as in the authors' code
        tied = getattr(llm_config, "tie_word_embeddings", None)
        kwargs["tie_word_embeddings"] = bool(kwargs.get("tie_word_embeddings", False) if tied is None else tied)
        super().__init__(**kwargs)

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> NEOChatTextConfig:
        """The section that caches and generation ask about layers and heads; transformers does not know its name."""
        return self.llm_config


def _only(value: Any) -> Any:
    """`[x]` and `(x,)` -> x: a comma behind an assignment in the authors' code made such values."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _refuse_other(fields: Mapping[str, Any], where: str, **expected: Any) -> None:
    for name, value in expected.items():
        if fields.get(name, value) != value:
            raise ValueError(f"{where}: {name} is {fields[name]!r}; NEO has {value!r}")
