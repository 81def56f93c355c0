"""A decoder layer of the arms: without H and W heads, with second weights for the tokens of pictures, or with LoRA.

    x [T] --tokens of text, of pictures--> norm, q k v, rotation --back in order--> attention
          --tokens of text, of pictures--> o, norm, MLP          --back in order--> x [T]

Each token goes through one branch alone. A branch's own modules lie under `visual.` with the names of those that they
replace; it takes the layer's where it has none. Both branches run in every row, also where it has no picture, so that
ranks agree; a decoding step has text alone, and no second branch.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.axes import VisionLora, within
from neo_lightning.model.design.rope import norm_rope
from neo_lightning.model.layers import Layer, Row, Split
from neo_lightning.ops.joint_linear import joint_linear, lay_together
from neo_lightning.ops.qk_norm_rope import Rope, qk_norm_rope
from neo_lightning.ops.swiglu import swiglu

HW = ("q_proj_hw", "k_proj_hw", "q_norm_h", "q_norm_w", "k_norm_h", "k_norm_w")
PARTS: dict[str, tuple[str, ...]] = {
    "norm": ("input_layernorm", "post_attention_layernorm"),
    "qkv": tuple(
        f"self_attn.{name}" for name in ("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj", "q_norm", "k_norm")
    )
    + tuple(f"self_attn.{name}" for name in HW[2:]),
    "o": ("self_attn.o_proj",),
    "ffn": ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
}
"""Part of `modality_weights` -> modules of a layer."""
_PROJECTIONS = ("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj")


def layer_class(config: NeoConfig) -> type[Layer]:
    """NEO-ov's layer, where the design asks for no other."""
    design = config.design
    other = not design.hw_heads or design.modality_weights.parts or design.vision_lora.rank
    return DesignLayer if other else Layer


def split_of(tokens: int, of_units: Tensor) -> Split:
    """Places of a row's tokens by kind; `of_units` [M] are those of units, in any order. Waits for no device."""
    kind = torch.zeros(tokens, dtype=torch.uint8, device=of_units.device).index_fill(0, of_units, 1)
    order = kind.argsort(stable=True)
    return Split(order[: tokens - of_units.numel()], order[tokens - of_units.numel() :], order.argsort())


def by_token(
    split: Split | None, text: Callable[[Tensor | None], tuple[Tensor, ...]], visual: Callable[..., tuple[Tensor, ...]]
) -> tuple[Tensor, ...]:
    """What two branches make of their tokens [n, ...], in the row's order; without a split all are text's."""
    if split is None:
        return text(None)
    parts = zip(text(split.text), visual(split.visual), strict=True)
    return tuple(torch.cat(pair).index_select(0, split.inverse) for pair in parts)


class LowRank(nn.Module):
    """y + scale * B A x of one linear layer; B starts at zero."""

    def __init__(self, linear: nn.Linear, lora: VisionLora) -> None:
        super().__init__()
        self.scale = (lora.alpha or lora.rank) / lora.rank
        self.lora_a = nn.Parameter(torch.empty(lora.rank, linear.in_features))
        self.lora_b = nn.Parameter(torch.empty(linear.out_features, lora.rank))

    def forward(self, x: Tensor) -> Tensor:
        """[T, in] -> [T, out]: the update alone."""
        return self.scale * nn.functional.linear(nn.functional.linear(x, self.lora_a), self.lora_b)


class DesignLayer(Layer):
    """See the head of this file."""

    def __init__(self, config: NeoConfig, layer: int, fp8: bool) -> None:
        super().__init__(config, layer, fp8)
        if fp8:
            raise ValueError("fp8 computes NEO-ov's layers; model.design asks for others: leave out model.fp8")
        weights, lora = config.design.modality_weights, config.design.vision_lora
        self.hw_heads, self.head_dim = config.design.hw_heads, config.head_dim
        if not self.hw_heads:
            for name in HW:
                delattr(self.self_attn, name)
        own = [name for part in weights.parts for name in PARTS[part]] if within(weights.layers, layer) else []
        self.own = {name for name in own if self.hw_heads or name.rpartition(".")[2] not in HW}
        """Modules that visual tokens have of their own."""
        if self.own:
            places = sorted({name.rpartition(".")[0] for name in self.own})
            self.visual = nn.ModuleDict({place: nn.ModuleDict() for place in places if place})
            for name in sorted(self.own):
                place, _, last = name.rpartition(".")
                holder: Any = self.visual[place] if place else self.visual
                holder[last] = deepcopy(self.get_submodule(name))
        adapted = lora.linears if lora.rank and within(lora.layers, layer) else ()
        self.lora_for_text = lora.tokens == "all"
        self.adapted = set(adapted)
        if adapted:
            linears = {n: self.get_submodule(f"{'self_attn' if n[0] in 'qkvo' else 'mlp'}.{n}") for n in adapted}
            self.vision_lora = nn.ModuleDict({n: LowRank(linear, lora) for n, linear in linears.items()})  # type: ignore[arg-type]
        self.one_branch = not self.own and (not adapted or self.lora_for_text)

    def lay_together(self) -> None:
        """See `Layer`; of what text goes through."""
        names = [name for name in _PROJECTIONS if self.hw_heads or name not in HW]
        lay_together([getattr(self.self_attn, name).weight for name in names])
        self.mlp.lay_together()

    def forward(self, x_TE: Tensor, row: Row) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        split = None if self.one_branch else row.split

        def attends(visual: bool) -> Callable[[Tensor | None], tuple[Tensor, ...]]:
            return lambda places: self._before(_at(x_TE, places), _rope_at(row.rope, places), row, visual)

        q, k, v = by_token(split, attends(False), attends(True))
        o_TE = row.attend(self.self_attn.layer, q, k, v).flatten(1)

        def goes_on(visual: bool) -> Callable[[Tensor | None], tuple[Tensor, ...]]:
            return lambda places: (self._behind(_at(x_TE, places), _at(o_TE, places), visual),)

        return by_token(split, goes_on(False), goes_on(True))[0]

    def _before(self, x: Tensor, rope: Rope, row: Row, visual: bool) -> tuple[Tensor, ...]:
        """q, k and v of tokens of one kind."""
        eps, d = self.self_attn.eps, self.head_dim
        names = [name for name in _PROJECTIONS if self.hw_heads or name not in HW]
        n = self._module("input_layernorm", visual)(x)
        linears = [self._module(f"self_attn.{name}", visual) for name in names]
        joint = joint_linear(n, [linear.weight for linear in linears], row.order)
        if update := self._update(n, names, visual, [linear.weight.shape[0] for linear in linears]):
            joint = joint + update[0].index_select(1, row.order.rows)
        times = 1 + self.hw_heads
        kv = linears[-1].weight.shape[0]
        q, k, v = joint.split([joint.shape[1] - (times + 1) * kv, times * kv, kv], 1)

        def normed(part: Tensor, name: str) -> Tensor:
            axes = ("", "_h", "_w") if self.hw_heads else ("",)
            weights = [self._module(f"self_attn.{name}_norm{axis}", visual).weight for axis in axes]
            heads = part.unflatten(1, (-1, times * d))
            if not self.hw_heads:
                return norm_rope(heads, weights[0], rope, eps)
            return qk_norm_rope(heads, (weights[0], weights[1], weights[2]), rope, eps)

        return normed(q, "q"), normed(k, "k"), v.unflatten(1, (-1, d))

    def _behind(self, x: Tensor, o: Tensor, visual: bool) -> Tensor:
        """What the layer makes of tokens of one kind behind attention."""
        x, n = self._module("post_attention_layernorm", visual).after(x, self._linear("self_attn.o_proj", o, visual))
        gate_up = [self._module(f"mlp.{name}_proj", visual).weight for name in ("gate", "up")]
        joint = joint_linear(n, gate_up)
        if update := self._update(n, ["gate_proj", "up_proj"], visual, [w.shape[0] for w in gate_up]):
            joint = joint + update[0]
        return x + self._linear("mlp.down_proj", swiglu(joint), visual)

    def _linear(self, name: str, x: Tensor, visual: bool) -> Tensor:
        y = self._module(name, visual)(x)
        update = self._update(x, [name.rpartition(".")[2]], visual, [y.shape[1]])
        return y + update[0] if update else y

    def _module(self, name: str, visual: bool) -> Any:
        """A module of the layer, or the visual tokens' own in its place."""
        return self.get_submodule(f"visual.{name}" if visual and name in self.own else name)

    def _update(self, x: Tensor, names: list[str], visual: bool, widths: list[int]) -> list[Tensor]:
        """The low-rank update of linear layers side by side; nothing where none has one."""
        if not (visual or self.lora_for_text) or not self.adapted.intersection(names):
            return []
        parts = [
            self.vision_lora[name](x) if name in self.adapted else x.new_zeros(x.shape[0], width)
            for name, width in zip(names, widths, strict=True)
        ]
        return [torch.cat(parts, 1)]


def _at(x: Tensor, places: Tensor | None) -> Tensor:
    return x if places is None else x.index_select(0, places)


def _rope_at(rope: Rope, places: Tensor | None) -> Rope:
    return rope if places is None else rope._replace(turn=rope.turn.index_select(0, places))
