"""What one decoder layer keeps of a row for its backward pass, and needs in it; see `training.memory`.

In: a network, what is trained, a row's counts, how a step is laid out. Out: bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from neo_lightning.model.config import NeoConfig
from neo_lightning.ops.interval_attention.tiled import KEPT_SCORES, ROWS
from neo_lightning.training.optim import Kind
from neo_lightning.training.parallel import ActivationCheckpointing
from neo_lightning.training.sequence import key_repeats
from neo_lightning.training.term_memory import TermsOfRun, term_activations

FLOAT = 4
"""Bytes of float32: masters, moments, reduced gradients, statistics of norms."""
_LAYERS = "language_model.model.layers."


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a step is laid out over devices and in time."""

    shard_size: int = 1
    """Ranks that share one copy of the parameters."""
    sequence_size: int = 1
    """Ranks that share each row, of those that share a copy."""
    copies: int = 1
    """Copies of the parameters."""
    bf16: bool = True
    """bf16-mixed: compute in bfloat16, masters in float32. False: all in float32."""
    checkpointing: ActivationCheckpointing = "none"
    optimizer: Kind = "adamw"
    averaged: bool = False
    """An average of the weights is kept (`training.ema`)."""
    recomputed_layers: int = 0
    """So many, the first, are under `full`, whatever the others are under."""
    micro_batches: int = 1
    """Rows that a rank works through in a step, one after the other."""
    keep_gathered: bool = False
    """Layers stay gathered between a micro-batch's forward and backward pass."""
    kernels: Literal["triton", "eager"] = "triton"
    """Backends of `ops`: they keep different things. `triton` on a GPU, `eager` (attention: `tiled`) on a CPU."""
    at_rest: Mapping[str, float] = field(default_factory=dict)
    """Bytes of a number of those parameters that do not lie in float32: beside `model.lora`, what no stage trains."""

    def mode(self, layer: int) -> ActivationCheckpointing:
        """What a layer is under."""
        return "full" if layer < self.recomputed_layers else self.checkpointing

    @property
    def width(self) -> int:
        """Bytes of a number as computed with."""
        return 2 if self.bf16 else FLOAT

    def masters(self, sizes: Mapping[str, int]) -> int:
        """Bytes of parameters of so many elements as they lie, on all ranks that share a copy together."""
        return round(sum(size * self.at_rest.get(name, FLOAT) for name, size in sizes.items()))

    def gathered(self, sizes: Mapping[str, int]) -> int:
        """Bytes of parameters of so many elements where they are whole."""
        return round(sum(size * min(self.width, self.at_rest.get(name, FLOAT)) for name, size in sizes.items()))

    @property
    def sharded(self) -> bool:
        """FSDP2 is at work: parameters are gathered, gradients reduced."""
        return self.bf16 or self.shard_size * self.copies > 1


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """A packed row, or what a rank has of one: a part of the tokens, all tokens' pairs under a part of the heads."""

    tokens: int
    visual: int
    """Visual tokens; each has four patches."""
    supervised: int
    pairs: int
    """Query-key pairs that the mask lets through."""
    patch_pairs: int = 0
    """Sum over pictures of their patches squared."""

    def part(self, parts: int) -> RowCounts:
        """The average part of a row that so many ranks share."""
        return RowCounts(**{name: -(-count // parts) for name, count in vars(self).items()})


@dataclass(frozen=True)
class _Widths:
    """Columns of a token in a layer."""

    stream: int
    q: int
    kv: int
    mlp: int
    heads: int
    """Of queries and keys."""

    @classmethod
    def of(cls, config: NeoConfig) -> _Widths:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        widths = config.hidden_size, heads * config.head_dim, kv_heads * config.head_dim, config.intermediate_size
        return cls(*widths, heads + kv_heads)


def layer_activations(
    config: NeoConfig,
    trained: Callable[[str], bool],
    layer: int,
    row: RowCounts,
    layout: Layout,
    terms: TermsOfRun = TermsOfRun(),  # noqa: B008 - frozen
) -> int:
    """Bytes that a layer keeps of one row from forward to backward under the layout's checkpointing."""
    w = _Widths.of(config)
    if layout.mode(layer) == "none":
        return _whole_layer(config, trained, layer, row, layout, terms)
    if layout.mode(layer) == "full":
        return row.tokens * layout.width * w.stream  # its input
    # its input and what its products give: projections of q, k, v, o, gate, up
    numbers = 2 * w.stream + 2 * w.q + 3 * w.kv + 2 * w.mlp
    own = _of_terms(config, layer, row, layout, terms, selective=True)
    if layout.kernels == "triton":  # the attention's output, and a float a head
        return own + row.tokens * (layout.width * (numbers + w.q) + FLOAT * config.num_attention_heads)
    return own + row.tokens * (layout.width * numbers + FLOAT * 4 * w.heads)  # means of QK norms are products


def _of_terms(
    config: NeoConfig, layer: int, row: RowCounts, layout: Layout, terms: TermsOfRun, *, selective: bool
) -> int:
    place, eager = f"{_LAYERS}{layer}.", layout.kernels == "eager"
    return term_activations(config, terms, place, row.tokens, layout.width, eager=eager, selective=selective)


def _whole_layer(
    config: NeoConfig, trained: Callable[[str], bool], layer: int, row: RowCounts, layout: Layout, terms: TermsOfRun
) -> int:
    """Bytes that a layer keeps without checkpointing. A frozen projection without a term does not keep its input."""
    w, eager = _Widths.of(config), layout.kernels == "eager"

    def on(*names: str) -> bool:
        weights = [f"{_LAYERS}{layer}.{name}.weight" for name in names]
        return any(trained(name) or name in terms.ranks for name in weights)

    inputs = tuple(f"self_attn.{name}" for name in ("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj"))
    numbers = w.stream + w.stream * on(*inputs)  # the first norm's input and output
    numbers += (2 * w.q + 2 * w.kv) * (1 + (eager and not layout.bf16))  # QK norm's inputs; v holds the product as well
    numbers += 2 * w.q + 3 * w.kv  # q, k and v
    numbers += w.q * (not eager or on("self_attn.o_proj"))  # attention's output, which the kernel keeps for itself too
    if layout.sequence_size > 1:  # v as it was made, repeated keys and values; on a GPU what attention gave, too
        repeated = key_repeats(config, layout.sequence_size) - 1
        numbers += w.kv + 3 * w.kv * repeated + w.q * (not eager and on("self_attn.o_proj"))
    numbers += w.stream + w.stream * on("mlp.gate_proj", "mlp.up_proj")  # the second norm's input and output
    numbers += w.mlp * (2 + eager)  # gate, up; torch keeps silu(gate) too
    numbers += w.mlp * on("mlp.down_proj")
    floats = 4 * w.heads + 2 if eager else config.num_attention_heads  # inverse lengths; log-sum-exp
    # half of a tile of the `tiled` attention is masked at its right end
    scores = config.num_attention_heads * (row.pairs + row.tokens * ROWS // 2)
    kept = eager and not layout.bf16 and scores <= KEPT_SCORES * row.tokens * (2 * w.q + 3 * w.kv)
    own = _of_terms(config, layer, row, layout, terms, selective=False)
    return own + row.tokens * (layout.width * numbers + FLOAT * floats) + FLOAT * scores * kept


def layer_backward(
    config: NeoConfig,
    trained: Callable[[str], bool],
    layer: int,
    row: RowCounts,
    layout: Layout,
    terms: TermsOfRun = TermsOfRun(),  # noqa: B008 - frozen
) -> int:
    """Bytes that a layer's backward pass needs beside what was kept: its recomputed part, and the MLP's gradients.

    The MLP comes first, when nothing of the layer is freed yet: gradients of the product, of gate and of up, while the
    product itself goes as soon as `down_proj` has its gradient.
    """
    recomputed = 0
    if layout.mode(layer) != "none":
        again = _whole_layer(config, trained, layer, row, layout, terms)
        # what products gave is handed out and then freed
        recomputed = max(0, again - layer_activations(config, trained, layer, row, layout, terms))
    name = f"{_LAYERS}{layer}.mlp.down_proj.weight"
    down = trained(name)
    temporary = row.tokens * config.intermediate_size * (3 - (down or name in terms.ranks))
    return recomputed + layout.width * (temporary + down * config.hidden_size * config.intermediate_size)
