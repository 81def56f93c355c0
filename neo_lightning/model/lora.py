"""LoRA (arXiv 2106.09685): which weights have low-rank terms, and several named adapters in one model.

q k v o hw mlp patch     projections of all layers, and the two convolutions of the patch embedding
backbone                 q k v o mlp of the layers behind the pre-buffer
vision                   the pre-buffer's layers whole, hw of all layers, patch
all                      both

add_adapter(model, "cats", modules, ...); use(model, "cats"); use(model, None)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.low_rank import LowRank, Terms, active_term
from neo_lightning.model.neo import Neo
from neo_lightning.ops.coded import Bits

TARGETS: dict[str, tuple[str, ...]] = {
    "q": ("self_attn.q_proj",),
    "k": ("self_attn.k_proj",),
    "v": ("self_attn.v_proj",),
    "o": ("self_attn.o_proj",),
    "hw": ("self_attn.q_proj_hw", "self_attn.k_proj_hw"),
    "mlp": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    "patch": ("patch_embedding", "dense_embedding"),
}
"""Named sets of weights, by their place in a layer or in the patch embedding."""
PRESETS = ("backbone", "vision", "all")
TRAINED = "default"
"""Name of the adapter that a training trains."""
_LAYER = "language_model.model.layers."
_MARK = ".lora."


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank terms that a run trains, beside a frozen base."""

    rank: int = 16
    """Inner width of a term."""
    alpha: float = 32.0
    """A term is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Part of a term's inputs that it does not see in a step; projections of one input share the draw."""
    targets: tuple[str, ...] = ("all",)
    """Sets of weights: q, k, v, o, hw, mlp, patch; backbone, vision, all."""
    rslora: bool = False
    """Multiply by alpha / sqrt(rank) instead, which suits large ranks (arXiv 2312.03732)."""
    base_bits: Bits | None = None
    """4 or 8: those of the layers' projections that no stage trains lie in so many bits (`model.frozen`), and terms are
    trained beside rounded weights. None: they lie as they are computed with."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"lora: rank must be at least 1, got {self.rank}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"lora: alpha must be positive and finite, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"lora: dropout must be at least 0 and below 1, got {self.dropout}")
        if self.base_bits not in (None, 4, 8):
            raise ValueError(f"lora: base_bits must be 4, 8 or null (as is computed with), got {self.base_bits!r}")
        known = ", ".join((*TARGETS, *PRESETS))
        if not self.targets:
            raise ValueError(f"lora: targets is empty, so nothing would be trained; there are: {known}")
        if unknown := [name for name in self.targets if name not in TARGETS and name not in PRESETS]:
            raise ValueError(f"lora: there is no target {unknown[0]!r}; there are: {known}")

    @property
    def scale(self) -> float:
        """Of a term."""
        return scale_of(self.rank, self.alpha, rslora=self.rslora)

    def modules(self, config: NeoConfig) -> list[str]:
        """Names of the modules whose weights have terms, in the model's order.

        Raises:
            ValueError: a target holds no weight of this network.
        """
        found: set[str] = set()
        for target in self.targets:
            held = _held(target, config)
            if not held:
                raise ValueError(f"lora: the target {target!r} holds no weight of this model, so it would do nothing")
            found |= held
        return [name for name in targetable(config) if name in found]

    def ranks(self, config: NeoConfig) -> dict[str, int]:
        """Name of each weight that has a term -> the term's rank."""
        return {f"{name}.weight": self.rank for name in self.modules(config)}


def scale_of(rank: int, alpha: float, *, rslora: bool) -> float:
    """What a term is multiplied by."""
    return alpha / math.sqrt(rank) if rslora else alpha / rank


def targetable(config: NeoConfig) -> list[str]:
    """Every module whose weight may have a term, in the model's order."""
    layer = [part for name, parts in TARGETS.items() if name != "patch" for part in parts]
    layers = [f"{_LAYER}{i}.{part}" for i in range(config.num_hidden_layers) for part in layer]
    return [*(f"vision_model.embeddings.{part}" for part in TARGETS["patch"]), *layers]


def projections(config: NeoConfig) -> list[str]:
    """The weights of all layers' projections, by name."""
    return [f"{name}.weight" for name in targetable(config) if name.startswith(_LAYER)]


def _held(target: str, config: NeoConfig) -> set[str]:
    """Modules of a named set."""
    everything = targetable(config)
    if target in TARGETS:
        return {name for name in everything if name.endswith(tuple(f".{part}" for part in TARGETS[target]))}
    hw = _held("hw", config)
    layers = {name: int(name.removeprefix(_LAYER).split(".")[0]) for name in everything if name.startswith(_LAYER)}
    behind = {name for name, layer in layers.items() if layer >= config.extra_num_layers} - hw
    return {"backbone": behind, "vision": set(everything) - behind, "all": set(everything)}[target]


def is_term(name: str) -> bool:
    """Whether a parameter's name is that of a low-rank term."""
    return _MARK in name


def term_name(module: str, factor: str) -> str:
    """Name of A or B of the only adapter of a model, beside a module's weight."""
    return f"{module}{_MARK}0.{factor}"


def weight_of(name: str) -> str:
    """A term's parameter -> the weight that it lies beside."""
    return f"{name.partition(_MARK)[0]}.weight"


def add_adapter(
    model: Neo,
    name: str,
    modules: Iterable[str],
    *,
    rank: int,
    scale: float,
    dropout: float = 0.0,
    dtype: torch.dtype | None = None,
) -> dict[str, LowRank]:
    """Put an adapter into a model, uninitialised and not in use.

    Args:
        model: the base.
        name: of the adapter.
        modules: names of those whose weights get a term.
        rank, scale, dropout: see `LowRank`.
        dtype: of its parameters; None takes each weight's.

    Returns:
        Module name -> its term.

    Raises:
        ValueError: the model has an adapter of that name, or its layers would not look at one.
    """
    adapters = model.adapters
    if not model.config.design.computes_as_neo:
        raise ValueError("low-rank terms lie in NEO-ov's layers, and the model's design (model.design) has others")
    if name in adapters.slots:
        raise ValueError(f"this model has an adapter {name!r} already")
    slot = str(1 + max(map(int, adapters.slots.values()), default=-1))
    terms: dict[str, LowRank] = {}
    for path in modules:
        module = model.get_submodule(path)
        weight: Tensor = module.weight  # type: ignore[assignment]
        term = LowRank(weight, rank=rank, scale=scale, dropout=dropout, dtype=dtype or weight.dtype)
        if not hasattr(module, "lora"):
            module.lora = Terms(adapters)
        cast(Terms, module.lora)[slot] = terms[path] = term.train(model.training)
    adapters.slots[name] = slot
    return terms


def use(model: Neo, name: str | None) -> None:
    """Choose the adapter that the model computes with; None: the base alone. Nothing is moved or copied.

    Raises:
        ValueError: the model has none of that name.
    """
    adapters = model.adapters
    if name is not None and name not in adapters.slots:
        known = ", ".join(adapters.slots) or "none"
        raise ValueError(f"this model has no adapter {name!r}; it has: {known}")
    adapters.active = None if name is None else adapters.slots[name]


def active_name(model: Neo) -> str | None:
    """The adapter that the model computes with."""
    adapters = model.adapters
    return next((name for name, slot in adapters.slots.items() if slot == adapters.active), None)


def remove_adapter(model: Neo, name: str) -> None:
    """Take an adapter out of a model.

    Raises:
        ValueError: the model has none of that name.
    """
    adapters = model.adapters
    before = active_name(model)
    use(model, name)
    slot = adapters.slots.pop(name)
    for module in _with_terms(model):
        terms = cast(Terms, module.lora)
        if slot in terms:
            del terms[slot]
    use(model, None if before == name else before)


@torch.no_grad()
def merge(model: Neo, name: str) -> None:
    """Add an adapter to the base's weights, each sum rounded once, and take it out of the model.

    Raises:
        ValueError: the model has none of that name.
    """
    before = active_name(model)
    use(model, name)
    for module in _with_terms(model):
        if (term := active_term(module)) is not None:
            weight: Tensor = module.weight  # type: ignore[assignment]
            weight.copy_(weight.float() + term.delta())
    remove_adapter(model, name)
    use(model, None if before == name else before)


def _with_terms(model: Neo) -> Iterator[nn.Module]:
    return (module for module in model.modules() if isinstance(getattr(module, "lora", None), Terms))


def initial_terms(shapes: Mapping[str, torch.Size], seed: int) -> Iterator[tuple[str, Tensor]]:
    """Fresh float32 values of an adapter's parameters: A uniform within 1/sqrt(E), B zero, so that it adds nothing.

    Args:
        shapes: name -> shape.
        seed: of the run; each tensor has a generator of its own, as in `model.init`.
    """
    for name, shape in shapes.items():
        value = torch.zeros(shape)
        if name.endswith(".A"):
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            bound = shape[1:].numel() ** -0.5
            value.uniform_(-bound, bound, generator=generator)
        yield name, value
