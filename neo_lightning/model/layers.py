"""One decoder layer: attention over the T, H and W axes, then a gated MLP, each behind an RMSNorm.

What differs between training, prefill and cached decoding is only how a layer's queries meet keys and values, so the
layer is given that: a `Row` (rotations, and an `attend` that knows the mask and may fill or read a cache).
Parameters carry the names of the released checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.frozen import held
from neo_lightning.model.low_rank import low_rank
from neo_lightning.ops.coded import Coded
from neo_lightning.ops.interval_attention import interval_attention
from neo_lightning.ops.joint_linear import Order, joint_linear, lay_together
from neo_lightning.ops.qk_norm_rope import Rope, few_norm_rope, paired_weights, qk_norm_rope
from neo_lightning.ops.rms_norm import add_rms_norm, rms_norm
from neo_lightning.ops.swiglu import swiglu


class Split(NamedTuple):
    """A row's tokens by kind, all int64."""

    text: Tensor
    """[T - M] places."""
    visual: Tensor
    """[M] places of units' tokens, row tokens included."""
    inverse: Tensor
    """[T]: where each token lies in [text; visual]."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Row(ABC):
    """What all layers share about one row of tokens. Opaque to FSDP2, so that the tables stay float32 under bf16."""

    rope: Rope
    """Rotations of q and k."""
    order: Order
    """How the projections of q, k and v lie in their one product."""
    memo: dict[int, Tensor] | None = None
    """Layer -> its norms' weights, kept from row to row while a batch runs; None where the weights may change."""
    split: Split | None = None
    """Which tokens are of pictures, for layers that treat those otherwise; None where all are text."""

    def at(self, layer: int) -> Row:
        """The row as a layer sees it."""
        return self

    @abstractmethod
    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """o [T, H, E] of layer number `layer`; the softmax scale is 1/sqrt(head_dim), not 1/sqrt of q's full width."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PackedRow(Row):
    """Whole documents, packed: tokens see the tokens of this row within their interval."""

    start: Tensor
    """[T] int32, see `neo_lightning.sequence`."""
    limit: Tensor
    """[T] int32."""
    backend: str
    """Attention backend, chosen."""
    prepared: Any
    """What that backend derived from the bounds."""
    other: tuple[frozenset[int], Tensor, Any] | None = None
    """Layers with a mask of their own, their `limit`, and what the backend derived from it."""

    def at(self, layer: int) -> Row:
        """See `Row`."""
        if self.other is None or layer not in self.other[0]:
            return self
        return replace(self, limit=self.other[1], prepared=self.other[2])

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor) -> Tensor:
        """See `Row`."""
        return interval_attention(
            q_THD,
            k_TKD,
            v_TKE,
            self.start,
            self.limit,
            scale=v_TKE.shape[-1] ** -0.5,
            backend=self.backend,
            prepared=self.prepared,
        )


class RMSNorm(nn.Module):
    """Holds the weight of one RMSNorm."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same, normalised."""
        return rms_norm(x, self.weight, self.eps)

    def after(self, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
        """x + delta, and the same normalised."""
        return add_rms_norm(x, delta, self.weight, self.eps)


def _linear(inputs: int, outputs: int) -> nn.Linear:
    return nn.Linear(inputs, outputs, bias=False)


def _together(projections: Sequence[nn.Linear], x: Tensor, order: Order | None, fp8: bool) -> Tensor:
    """Projections that share their input; what low-rank terms add to them is not held any longer than that takes."""
    plus = low_rank(x, projections, order)
    return joint_linear(x, [held(projection) for projection in projections], order, fp8=fp8, plus=plus)


def _alone(projection: nn.Linear, x: Tensor, fp8: bool) -> Tensor:
    """A projection that shares its input with no other: torch's own product but for few bits, or without gradients.

    Recomputation of a layer ends in front of torch's last product, and behind that of a Python function.
    """
    weight, plus = held(projection), low_rank(x, (projection,))
    if fp8 or isinstance(weight, Coded) or not torch.is_grad_enabled():
        return joint_linear(x, (weight,), fp8=fp8, plus=plus)
    return projection(x) if plus is None else torch.addmm(plus, x, projection.weight.t())


class Attention(nn.Module):
    """Grouped-query attention whose query and key are [T | H | W] wide and whose value is head_dim wide."""

    def __init__(self, config: NeoConfig, layer: int, fp8: bool) -> None:
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.fp8 = fp8
        self.eps = config.rms_norm_eps
        width, q_width = config.hidden_size, config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q_proj, self.q_proj_hw = _linear(width, q_width), _linear(width, q_width)
        self.k_proj, self.k_proj_hw = _linear(width, kv_width), _linear(width, kv_width)
        self.v_proj, self.o_proj = _linear(width, kv_width), _linear(q_width, width)
        half = config.head_dim // 2
        self.q_norm, self.k_norm = RMSNorm(config.head_dim, self.eps), RMSNorm(config.head_dim, self.eps)
        self.q_norm_h, self.k_norm_h = RMSNorm(half, self.eps), RMSNorm(half, self.eps)
        self.q_norm_w, self.k_norm_w = RMSNorm(half, self.eps), RMSNorm(half, self.eps)

    def forward(self, x_TE: Tensor, row: Row) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        projections = (self.q_proj, self.q_proj_hw, self.k_proj, self.k_proj_hw, self.v_proj)
        q_width, _, k_width, _, v_width = (projection.weight.shape[0] for projection in projections)
        joint_TF = _together(projections, x_TE, row.order, self.fp8)
        if row.memo is not None:
            return self._few(joint_TF, q_width // self.head_dim, row, row.memo)
        parts = joint_TF.split([2 * q_width, 2 * k_width, v_width], 1)
        q, k = (part.unflatten(1, (-1, 2 * self.head_dim)) for part in parts[:2])
        q_weights = (self.q_norm.weight, self.q_norm_h.weight, self.q_norm_w.weight)
        k_weights = (self.k_norm.weight, self.k_norm_h.weight, self.k_norm_w.weight)
        q = qk_norm_rope(q, q_weights, row.rope, self.eps)
        k = qk_norm_rope(k, k_weights, row.rope, self.eps)
        o = row.attend(self.layer, q, k, parts[2].unflatten(1, (-1, self.head_dim)))
        return _alone(self.o_proj, o.flatten(1), self.fp8)

    def _few(self, joint_TF: Tensor, heads: int, row: Row, memo: dict[int, Tensor]) -> Tensor:
        """The same for few tokens and without gradients, from the joint product on: queries and keys in one piece."""
        tokens, kv_heads = joint_TF.shape[0], self.v_proj.weight.shape[0] // self.head_dim
        if (w := memo.get(self.layer)) is None:
            q = paired_weights((self.q_norm.weight, self.q_norm_h.weight, self.q_norm_w.weight))
            k = paired_weights((self.k_norm.weight, self.k_norm_h.weight, self.k_norm_w.weight))
            w = torch.cat([q.expand(heads, -1), k.expand(kv_heads, -1)])
            w = memo[self.layer] = w.to(torch.promote_types(w.dtype, torch.float32))
        width = 2 * (heads + kv_heads) * self.head_dim
        qk = few_norm_rope(joint_TF[:, :width].view(tokens, -1, 2 * self.head_dim), w, row.rope, self.eps)
        v = joint_TF[:, width:].view(tokens, kv_heads, self.head_dim)
        o = row.attend(self.layer, qk[:, :heads], qk[:, heads:], v)
        return _alone(self.o_proj, o.reshape(tokens, -1), self.fp8)

    def lay_together(self) -> None:
        """Make the projections of q, k and v neighbours in memory: one product without a copy for few tokens."""
        projections = (self.q_proj, self.q_proj_hw, self.k_proj, self.k_proj_hw, self.v_proj)
        lay_together([projection.weight for projection in projections])


class MLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: NeoConfig, fp8: bool) -> None:
        super().__init__()
        self.fp8 = fp8
        self.gate_proj = _linear(config.hidden_size, config.intermediate_size)
        self.up_proj = _linear(config.hidden_size, config.intermediate_size)
        self.down_proj = _linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        gate_up = _together((self.gate_proj, self.up_proj), x, None, self.fp8)
        return _alone(self.down_proj, swiglu(gate_up), self.fp8)

    def lay_together(self) -> None:
        """Likewise gate and up."""
        lay_together([self.gate_proj.weight, self.up_proj.weight])


class Layer(nn.Module):
    """One decoder layer, of the pre-buffer and of the backbone alike."""

    def __init__(self, config: NeoConfig, layer: int, fp8: bool) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer, fp8)
        self.mlp = MLP(config, fp8)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x_TE: Tensor, row: Row) -> Tensor:
        """[T, hidden] -> [T, hidden]."""
        attended_TE = self.self_attn(self.input_layernorm(x_TE), row)
        x_TE, normed_TE = self.post_attention_layernorm.after(x_TE, attended_TE)
        return x_TE + self.mlp(normed_TE)

    def lay_together(self) -> None:
        """See `Attention` and `MLP`."""
        self.self_attn.lay_together()
        self.mlp.lay_together()
