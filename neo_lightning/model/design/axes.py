"""The axes of the design space, as `model.design` of a recipe names them. The defaults are NEO-ov.

    axis                 values                                                                    NEO-ov
    patch.kind           conv_gelu_conv | linear | linear_no_bias | conv_norm | ln_linear_ln       conv_gelu_conv
    patch.side           pixels of a visual token's side, even: 16, 28, 30, 32, 48                 32
    patch.position       rotary | learned | factorised | none                                      rotary
    rope.kind            native | 1d | m | interleaved_m | mm | video                              native
    rope.sections        pairs of T's columns that turn by t, h, w (m and interleaved_m)           the papers' shares
    rope.theta           base of each axis: {t: , h: , w: }                                        the config's
    hw_heads             H and W columns of queries and keys: true | false                         true
    mask.kind            unit | causal | tags                                                      unit
    mask.causal_layers   layers in which the mask is causal all the same                           none
    row_tokens.kind      none | id | learned                                                       none
    row_tokens.token     with `id`: its text or name                                               a line feed
    modality_weights     parts: any of norm, qkv, o, ffn; layers: [first, last)                    none
    vision_lora          rank, alpha, layers, linears; tokens: visual | all                        none
    pre_buffer.mask      same | causal; its depth is `extra_num_layers`                            same
    encoder              layers, hidden_size, heads, ...: a vision transformer                     none

Weights of a pre-buffer that another run has trained are a matter of where weights come from (`init.pre_buffer`), and a
frozen one of what a stage trains (`trains: [all, -pre_buffer]`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_type_hints

from neo_lightning.sequence import Mask, Positions, RowTokens

PatchKind = Literal["conv_gelu_conv", "linear", "linear_no_bias", "conv_norm", "ln_linear_ln"]
PatchPosition = Literal["rotary", "learned", "factorised", "none"]
RopeKind = Literal["native", "1d", "m", "interleaved_m", "mm", "video"]
Part = Literal["norm", "qkv", "o", "ffn"]
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Of a layer, that `vision_lora` may reach."""


@dataclass(frozen=True, kw_only=True)
class Patch:
    """How pixels become visual tokens; see `design.patch`."""

    kind: PatchKind = "conv_gelu_conv"
    side: int = 32
    """Pixels of the side of the square that a visual token covers; even, as it is cut into 2 x 2 patches."""
    position: PatchPosition = "rotary"
    table: int = 64
    """With `learned` and `factorised`: rows and columns of the tables, which are stretched over a picture."""


@dataclass(frozen=True, kw_only=True)
class RopeAxis:
    """What queries and keys are turned by; see `design.rope`."""

    kind: RopeKind = "native"
    sections: tuple[int, int, int] | None = None
    """Pairs of T's columns that turn by t, h and w; they add up to head_dim / 2."""
    theta: Mapping[str, float] = field(default_factory=dict)
    """Base of t, h and w, where it is not rope_theta (in T's columns) or rope_theta_hw (in H's and W's)."""


@dataclass(frozen=True, kw_only=True)
class MaskAxis:
    """Who may see whom; see `neo_lightning.sequence`."""

    kind: Mask | Literal["all_images"] = "unit"
    causal_layers: tuple[int, ...] = ()
    """Numbers of layers, the pre-buffer's first."""


@dataclass(frozen=True, kw_only=True)
class RowToken:
    """What stands behind each row of visual tokens."""

    kind: RowTokens = "none"
    token: str = "\n"
    """With `id`: a text that is one token of the tokenizer, or the name of a special one."""


@dataclass(frozen=True, kw_only=True)
class ModalityWeights:
    """Second weights of a layer for the tokens of pictures, which start as copies of the first; see `design.layer`."""

    parts: tuple[Part, ...] = ()
    """`norm`: both layer norms; `qkv`: projections and norms of queries and keys, and values; `o`; `ffn`."""
    layers: tuple[int, int] | None = None
    """First and one past the last; all if null."""


@dataclass(frozen=True, kw_only=True)
class VisionLora:
    """Low-rank updates of linear layers that start without effect; see `design.layer`."""

    rank: int = 0
    """0: none."""
    alpha: float | None = None
    """The update is scaled by alpha / rank; rank if null."""
    layers: tuple[int, int] | None = None
    """First and one past the last; all if null."""
    linears: tuple[str, ...] = LINEARS
    tokens: Literal["visual", "all"] = "visual"
    """Whose update it is."""


@dataclass(frozen=True, kw_only=True)
class PreBuffer:
    """The layers in front of the language model; `extra_num_layers` is their number."""

    mask: Literal["same", "causal"] = "same"


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A vision transformer, pixel unshuffle and a projector in place of the patch embedding; see `design.encoder`."""

    layers: int = 0
    """0: none."""
    hidden_size: int = 1024
    intermediate_size: int = 4096
    heads: int = 16
    table: int = 32
    """Rows and columns of the table of learned positions, which is stretched over a picture."""
    class_token: bool = False
    """One more token of each picture inside the encoder (InternViT has it); it is not handed on."""
    bias: bool = True
    """Of q, k and v."""
    eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class Design:
    """A point of the design space; the default is NEO-ov's."""

    patch: Patch = field(default_factory=Patch)
    rope: RopeAxis = field(default_factory=RopeAxis)
    hw_heads: bool = True
    mask: MaskAxis = field(default_factory=MaskAxis)
    row_tokens: RowToken = field(default_factory=RowToken)
    modality_weights: ModalityWeights = field(default_factory=ModalityWeights)
    vision_lora: VisionLora = field(default_factory=VisionLora)
    pre_buffer: PreBuffer = field(default_factory=PreBuffer)
    encoder: Encoder = field(default_factory=Encoder)

    @property
    def positions(self) -> Positions:
        """What the rope counts with."""
        return POSITIONS[self.rope.kind]

    @property
    def splits(self) -> bool:
        """Whether layers treat tokens of pictures otherwise than text."""
        return bool(self.modality_weights.parts or (self.vision_lora.rank and self.vision_lora.tokens == "visual"))

    @property
    def computes_as_neo(self) -> bool:
        """Whether layers and patch embedding are made of NEO-ov's products, whatever the masks and rotations."""
        others = self.splits or self.vision_lora.rank or self.encoder.layers or not self.hw_heads
        return not others and self.patch.kind == "conv_gelu_conv" and self.row_tokens.kind != "learned"

    def causal_layers(self, pre_buffer: int) -> tuple[int, ...]:
        """Layers that are causal where the others are not, of a network with a pre-buffer of so many."""
        own = range(pre_buffer) if self.pre_buffer.mask == "causal" else ()
        return tuple(sorted({*self.mask.causal_layers, *own}))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Design:
        """From a recipe or a config.json.

        Raises:
            ValueError: a key or value that there is not; names it and the nearest one.
        """
        return _built(cls, values, "model.design")

    def to_dict(self) -> dict[str, Any]:
        """What differs from NEO-ov; inverse of `from_dict`."""
        return _differences(asdict(self), asdict(Design()))


POSITIONS: dict[str, Positions] = {
    "native": "native",
    "1d": "index",
    "m": "grid",
    "interleaved_m": "grid",
    "mm": "grid",
    "video": "centred",
}
"""Rope -> the positions it counts with (`neo_lightning.sequence`)."""


def within(layers: tuple[int, int] | None, layer: int) -> bool:
    """Whether a layer is in a range [first, last); all are in None."""
    return layers is None or layers[0] <= layer < layers[1]


def _differences(values: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and isinstance(default.get(name), Mapping) and default[name]:
            value = _differences(value, default[name])
            if value:
                found[name] = value
        elif value != default.get(name):
            found[name] = list(value) if isinstance(value, tuple) else value
    return found


def _built(kind: type, values: Any, where: str) -> Any:
    """A dataclass of nested mappings, every value checked against its type."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be a mapping of keys, found {values!r}")
    hints, known = get_type_hints(kind), [f.name for f in fields(kind)]
    found = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}"
            raise ValueError(f"{where}: there is no key {name!r}. {hint}")
        found[name] = _value(hints[name], value, f"{where}.{name}")
    return kind(**found)


def _value(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, type) and is_dataclass(hint):
        return value if isinstance(value, hint) else _built(hint, value, where)
    choices = [choice for part in (hint, *get_args(hint)) for choice in get_args(part) if isinstance(choice, str)]
    if isinstance(value, list | tuple):
        for item in value if choices else ():
            _choice(item, choices, where)
        return tuple(value)
    if value is None and type(None) not in get_args(hint):
        raise ValueError(f"{where} must have a value")
    if hint in (int, bool) and type(value) is not hint:
        raise ValueError(f"{where} must be of type {hint.__name__}, found {value!r}")
    if choices and str(hint).find("tuple") < 0:
        _choice(value, choices, where)
    return value


def _choice(value: Any, choices: list[str], where: str) -> None:
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{where} is {value!r}; there are: {', '.join(choices)}. {hint}".strip())
