"""The network's shape and constants, and their layout in a released `config.json` (model_type `neo_chat`)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from neo_lightning.model.design.axes import Design, RopeAxis
from neo_lightning.model.design.refusals import refuse
from neo_lightning.sequence import SequenceRule

PATCH_CHANNELS = 3 * 16 * 16
"""Values of a flattened RGB patch; the patch side of 16 and the 2 x 2 merge are fixed by the released format."""

DESIGN_TYPE = "neo_design"
"""model_type of a network elsewhere in the design space, which only this package reads."""


@dataclass(frozen=True, kw_only=True)
class NeoConfig:
    """A NEO network. Defaults are those of NEO-ov 2B (on Qwen3-1.7B)."""

    vocab_size: int = 151936
    """Rows of the embedding table."""
    hidden_size: int = 2048
    """Width of the residual stream."""
    intermediate_size: int = 6144
    """Width inside the gated MLP."""
    num_hidden_layers: int = 40
    """All layers: pre-buffer and post-LLM."""
    extra_num_layers: int = 12
    """Layers of the pre-buffer; they come first."""
    num_attention_heads: int = 16
    """Query heads."""
    num_key_value_heads: int = 8
    """Key and value heads; divides the query heads."""
    head_dim: int = 128
    """Width of a head's T axis and of its value; H and W are half as wide each."""
    rms_norm_eps: float = 1e-6
    """Added to the mean square in every RMSNorm."""
    rope_theta: float = 1e6
    """Base of the T axis' rotary frequencies."""
    rope_theta_hw: float = 1e4
    """Base of the H and W axes'."""
    max_position_embeddings: int = 40960
    """Longest t the weights are meant for; nothing is cut at it."""
    max_position_embeddings_hw: int = 10000
    """Likewise for h and w."""
    tie_word_embeddings: bool = True
    """The head uses the embedding table."""
    patch_hidden_size: int = 1024
    """Channels between the two convolutions of the patch embedding; a multiple of 4."""
    rope_theta_vision: float = 1e4
    """Base of the patch embedding's 2D rotary frequencies."""
    image_token_id: int = 151669
    """The tokenizer's image-context token, one per visual token."""
    image_start_token_id: int = 151670
    """The tokenizer's token in front of an image."""
    min_pixels: int = 256 * 256
    """Area to which the released processor enlarges a smaller image, in pixels."""
    max_pixels: int = 2048 * 2048
    """Area to which it shrinks a larger one."""
    design: Design = field(default_factory=Design)
    """Where the network lies in the design space, as a `Design` or a mapping; the default is NEO-ov."""

    def __post_init__(self) -> None:
        if isinstance(self.design, Mapping):
            object.__setattr__(self, "design", Design.from_dict(self.design))
        for f in fields(self):
            value = getattr(self, f.name)
            if f.type == "int" and f.name != "extra_num_layers" and value < 1 and not f.name.endswith("token_id"):
                raise ValueError(f"model config: {f.name} must be at least 1, got {value}")
        if not 0 <= self.extra_num_layers <= self.num_hidden_layers:
            raise ValueError(
                f"model config: extra_num_layers ({self.extra_num_layers}) must lie between 0 and num_hidden_layers "
                f"({self.num_hidden_layers}), which counts the pre-buffer too"
            )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"model config: num_key_value_heads ({self.num_key_value_heads}) must divide num_attention_heads "
                f"({self.num_attention_heads})"
            )
        for name in ("head_dim", "patch_hidden_size"):
            if getattr(self, name) % 4:
                raise ValueError(f"model config: {name} must be a multiple of 4, got {getattr(self, name)}")
        refuse(self)

    @property
    def native_rope(self) -> bool:
        """Whether queries and keys turn as NEO's do."""
        return self.design.rope == RopeAxis()

    @property
    def causal_layers(self) -> frozenset[int]:
        """Layers that are causal where the others are not."""
        return frozenset(self.design.causal_layers(self.extra_num_layers))

    @property
    def rule(self) -> SequenceRule:
        """How pictures lie in a sequence of this network."""
        design = self.design
        assert design.mask.kind != "all_images"
        return SequenceRule(
            side=design.patch.side,
            positions=design.positions,
            mask=design.mask.kind,
            row_tokens=design.row_tokens.kind,
            row_token=design.row_tokens.token,
            causal_part=len(self.causal_layers) / self.num_hidden_layers,
        )

    @property
    def post_layers(self) -> int:
        """Layers of the language backbone (post-LLM)."""
        return self.num_hidden_layers - self.extra_num_layers

    @classmethod
    def qwen3(cls, qwen3: Mapping[str, Any], *, extra_num_layers: int, **overrides: Any) -> NeoConfig:
        """Config of a NEO around a Qwen3 backbone.

        Args:
            qwen3: the backbone's `config.json`, parsed.
            extra_num_layers: pre-buffer depth.
            overrides: fields of this class, such as `image_token_id` and `patch_hidden_size`.
        """
        values = _backbone_fields(qwen3, "Qwen3 config.json")
        values["num_hidden_layers"] += extra_num_layers
        return cls(**{**values, "extra_num_layers": extra_num_layers, **overrides})

    @classmethod
    def from_dict(cls, released: Mapping[str, Any]) -> NeoConfig:
        """Config from a released `config.json`, parsed. Custom code that it may name (`auto_map`) is never looked at.

        NEO 1.0's authors leave out the pre-buffer's depth and the token ids, and whatever has their default; what is
        assumed then is said as a warning. `hf/configuration_neo_chat.py` assumes the same.

        Raises:
            ValueError: a field is missing, or asks for a network that this code does not build.
        """
        if released.get("model_type") not in ("neo_chat", DESIGN_TYPE):
            raise ValueError(f"config.json: expected model_type 'neo_chat', found {released.get('model_type')!r}")
        llm, vision = _section(released, "llm_config"), _section(released, "vision_config")
        values = _backbone_fields(llm, "config.json, llm_config")
        values["tie_word_embeddings"] = bool(llm.get("tie_word_embeddings", released.get("tie_word_embeddings", False)))
        _refuse_other("config.json", released, {"downsample_ratio": 0.5})
        _refuse_other("config.json, vision_config", vision, {"patch_size": 16, "num_channels": 3})
        assumed: dict[str, Any] = {}
        for name, section, theirs in _MAY_LACK:
            where = {"": released, "llm_config": llm, "vision_config": vision}[section]
            if theirs in where:
                values[name] = where[theirs]
            else:
                default = _pre_buffer(values) if name == "extra_num_layers" else getattr(cls, name)
                values[name] = assumed[f"{section}.{theirs}".lstrip(".")] = default
        if assumed:
            said = ", ".join(f"{name} = {value}" for name, value in assumed.items())
            warnings.warn(f"config.json leaves out what NEO 1.0's released ones do; assumed: {said}", stacklevel=2)
        optional = {"max_position_embeddings_hw": llm, "min_pixels": vision, "max_pixels": vision}
        values |= {name: section[name] for name, section in optional.items() if name in section}
        if released["model_type"] == DESIGN_TYPE:
            values["design"] = _section(released, "design")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The released `config.json`. Another design has a type of its own: no other reader takes it for NEO."""
        backbone = {name: getattr(self, name) for name in (*_BACKBONE, "rope_theta")}
        released = {
            "architectures": ["NEOChatModel"],
            "model_type": "neo_chat",
            "downsample_ratio": 0.5,
            "template": "neo1_0",
            "img_start_token_id": self.image_start_token_id,
            "img_context_token_id": self.image_token_id,
            "tie_word_embeddings": self.tie_word_embeddings,
            "llm_config": {
                "architectures": ["Qwen3ForCausalLM"],
                "model_type": "qwen3",
                **backbone,
                "extra_num_layers": self.extra_num_layers,
                "rope_theta_hw": self.rope_theta_hw,
                "max_position_embeddings_hw": self.max_position_embeddings_hw,
                "tie_word_embeddings": self.tie_word_embeddings,
                "hidden_act": "silu",
                "attention_bias": False,
            },
            "vision_config": {
                "architectures": ["NEOVisionModel"],
                "llm_hidden_size": self.hidden_size,
                "hidden_size": self.patch_hidden_size,
                "downsample_ratio": 0.5,
                "rope_theta_vision": self.rope_theta_vision,
                "max_position_embeddings_vision": self.max_position_embeddings_hw,
                "num_channels": 3,
                "patch_size": 16,
                "min_pixels": self.min_pixels,
                "max_pixels": self.max_pixels,
            },
        }
        if self.design == Design():
            return released
        return {
            **released,
            "architectures": ["NeoDesign"],
            "model_type": DESIGN_TYPE,
            "design": self.design.to_dict(),
        }


_BACKBONE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
)
"""Fields that a Qwen3 config names as this class does."""
_MAY_LACK = (
    ("extra_num_layers", "llm_config", "extra_num_layers"),
    ("rope_theta_hw", "llm_config", "rope_theta_hw"),
    ("patch_hidden_size", "vision_config", "hidden_size"),
    ("rope_theta_vision", "vision_config", "rope_theta_vision"),
    ("image_token_id", "", "img_context_token_id"),
    ("image_start_token_id", "", "img_start_token_id"),
)
"""Field, the section it lies in, and its name there: with this class's default where a file lacks it."""
_QWEN3_LAYERS = {1024: 28, 2048: 28, 2560: 36, 4096: 36}
"""Width of a Qwen3 (0.6B, 1.7B, 4B, 8B) -> its layers."""


def _pre_buffer(values: Mapping[str, Any]) -> int:
    """Layers in front of a Qwen3 of this width."""
    backbone = _QWEN3_LAYERS.get(values["hidden_size"])
    if backbone is None or backbone > values["num_hidden_layers"]:
        raise ValueError(
            f"config.json, llm_config: field 'extra_num_layers' is missing, and the {values['num_hidden_layers']} "
            f"layers of width {values['hidden_size']} hold no Qwen3 that is known: add how many of them are the "
            "pre-buffer's"
        )
    return int(values["num_hidden_layers"]) - backbone


def _backbone_fields(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields of a Qwen3 config, with RoPE in its old and its new spelling; refuses what would compute otherwise."""
    _refuse_other(where, section, {"hidden_act": "silu", "attention_bias": False, "use_sliding_window": False})
    rope = section.get("rope_parameters") or section.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ValueError(f"{where}: scaled RoPE is not supported, found {rope}")
    values = {name: _need(section, name, where) for name in _BACKBONE}
    values["rope_theta"] = float(rope["rope_theta"] if "rope_theta" in rope else _need(section, "rope_theta", where))
    values["tie_word_embeddings"] = bool(section.get("tie_word_embeddings", False))
    return values


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = _need(config, name, "config.json")
    if not isinstance(section, Mapping):
        raise ValueError(f"config.json: {name} must be an object, found {type(section).__name__}")
    return section


def _need(section: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in section:
        raise ValueError(f"{where}: field {name!r} is missing; it has: {', '.join(sorted(map(str, section)))}")
    return section[name]


def _refuse_other(where: str, section: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    for name, value in expected.items():
        if section.get(name, value) != value:
            raise ValueError(f"{where}: {name} is {section[name]!r}; only {value!r} is supported")
