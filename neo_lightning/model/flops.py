"""Floating-point operations of a training step, from a formula with exact mask pairs.

Counted are the matrix products that the step needs, 2 operations per multiply-add, forward and backward:

    product with a weight    forward 2 r i o    backward 2 r i o to its input, 2 r i o to the weight if that is trained
    attention                forward 2 (D + E) per pair and query head, backward twice that

with r rows, i inputs, o outputs, D = 2 head_dim, E = head_dim, and a pair for every key that a token sees (sum of
limit - start). A low-rank term of rank R counts as a product of i inputs and R outputs and one of R and o. The head is
counted on supervised tokens only. Not counted: element-wise work, whatever is computed a
second time (activation checkpointing, attention's scores in the backward pass), and masked scores.

A gradient to an input is needed where something trained lies in front of it: pixels never need one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from neo_lightning.model.config import PATCH_CHANNELS, NeoConfig
from neo_lightning.types import CostRatio

_MANY = 10**6
_CONV1 = "vision_model.embeddings.patch_embedding."
_CONV2 = "vision_model.embeddings.dense_embedding."
_EMBEDDINGS = "language_model.model.embed_tokens.weight"


def flops_per_step(
    config: NeoConfig,
    *,
    tokens: int,
    patches: int,
    pairs: int,
    supervised: int,
    trained: Callable[[str], bool] | None = None,
    ranks: Mapping[str, int] | None = None,
) -> int:
    """Operations of one forward and backward pass.

    Args:
        config: the network.
        tokens: T, all tokens of the row(s).
        patches: P, four per visual token.
        pairs: query-key pairs that the mask lets through.
        supervised: tokens with a loss.
        trained: whether the parameter of a name is trained; None: all are.
        ranks: weight -> rank of its low-rank term (`model.lora`), which is trained.

    Returns:
        Forward plus backward.
    """
    on, ranks = trained or (lambda name: True), ranks or {}
    forward = forward_flops(config, tokens=tokens, patches=patches, pairs=pairs, supervised=supervised)
    backward = backward_flops(
        config, tokens=tokens, patches=patches, pairs=pairs, supervised=supervised, trained=on, ranks=ranks
    )
    return forward + backward + _term_flops(config, tokens, patches, ranks)


def cost_ratio(
    config: NeoConfig, trained: Callable[[str], bool] | None = None, ranks: Mapping[str, int] | None = None
) -> CostRatio:
    """What a pair and a supervised token cost, forward and backward, in tokens' worth; see `flops_per_step`."""

    def cost(**counts: int) -> int:
        nothing = {"tokens": 0, "patches": 0, "pairs": 0, "supervised": 0}
        return flops_per_step(config, **{**nothing, **counts}, trained=trained, ranks=ranks)

    token = cost(tokens=_MANY)
    return CostRatio(pair=cost(pairs=_MANY) / token, supervised=cost(supervised=_MANY) / token)


def forward_flops(config: NeoConfig, *, tokens: int, patches: int, pairs: int, supervised: int) -> int:
    """Operations of one forward pass; see `flops_per_step`."""
    layers = config.num_hidden_layers * layer_flops(config, tokens=tokens, pairs=pairs)
    return sum(_vision_products(config, patches)) + layers + _head(config, supervised)


def layer_flops(config: NeoConfig, *, tokens: int, pairs: int) -> int:
    """Operations of one layer's forward pass; see `flops_per_step`."""
    return sum(_layer_products(config, tokens).values()) + _attention(config, pairs)


def backward_flops(
    config: NeoConfig,
    *,
    tokens: int,
    patches: int,
    pairs: int,
    supervised: int,
    trained: Callable[[str], bool],
    ranks: Mapping[str, int] | None = None,
) -> int:
    """Operations of one backward pass, those in low-rank terms left out; see `flops_per_step`."""
    ranks = ranks or {}
    conv1, conv2 = _vision_products(config, patches)
    conv1_on, conv2_on = (
        trained(name + "weight") or trained(name + "bias") or name + "weight" in ranks for name in (_CONV1, _CONV2)
    )
    total = conv1 * trained(_CONV1 + "weight") + conv2 * (trained(_CONV2 + "weight") + conv1_on)
    upstream = conv1_on or conv2_on or trained(_EMBEDDINGS)
    products = _layer_products(config, tokens)
    for i in range(config.num_hidden_layers):
        names = {part: f"language_model.model.layers.{i}.{part}" for part in (*products, *_NORMS)}
        on = {part: trained(name) for part, name in names.items()}
        total += sum(cost * on[part] for part, cost in products.items())
        for parts in _LAYER_PATH:  # inputs are reached by gradients if anything in front is trained
            total += upstream * sum(products.get(part, 0) for part in parts)
            upstream = upstream or any(on[part] or names[part] in ranks for part in parts)
            if parts is _QKV:
                total += upstream * 2 * _attention(config, pairs)
    upstream = upstream or trained("language_model.model.norm.weight")
    head = _EMBEDDINGS if config.tie_word_embeddings else "language_model.lm_head.weight"
    return total + _head(config, supervised) * (trained(head) + upstream)


_INPUTS = tuple(f"self_attn.{name}.weight" for name in ("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj"))
_QK_NORMS = tuple(f"self_attn.{a}_norm{b}.weight" for a in "qk" for b in ("", "_h", "_w"))
_QKV = (*_INPUTS, *_QK_NORMS)
_NORMS = (*_QK_NORMS, "input_layernorm.weight", "post_attention_layernorm.weight")
_LAYER_PATH = (
    ("input_layernorm.weight",),
    _QKV,
    ("self_attn.o_proj.weight",),
    ("post_attention_layernorm.weight",),
    ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    ("mlp.down_proj.weight",),
)
"""A layer's parameters in the order in which data passes them."""


def _term_flops(config: NeoConfig, tokens: int, patches: int, ranks: Mapping[str, int]) -> int:
    """Low-rank terms, forward and backward: both products, and the gradients to their inputs and weights."""
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, inner, channels = config.hidden_size, config.intermediate_size, config.patch_hidden_size
    widths = {"q_proj": hidden + q, "q_proj_hw": hidden + q, "o_proj": q + hidden}
    widths |= dict.fromkeys(("k_proj", "k_proj_hw", "v_proj"), hidden + kv)
    widths |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)
    total = 0
    for name, rank in ranks.items():
        if name == _CONV1 + "weight":  # pixels have no gradient
            total += patches * rank * (2 * 2 * PATCH_CHANNELS + 3 * 2 * channels)
        elif name == _CONV2 + "weight":
            total += 3 * 2 * patches // 4 * rank * (4 * channels + hidden)
        else:
            total += 3 * 2 * tokens * rank * widths[name.split(".")[-2]]
    return total


def _vision_products(config: NeoConfig, patches: int) -> tuple[int, int]:
    """Conv1 and Conv2, forward."""
    channels = config.patch_hidden_size
    return 2 * patches * PATCH_CHANNELS * channels, 2 * patches * channels * config.hidden_size


def _layer_products(config: NeoConfig, tokens: int) -> dict[str, int]:
    """Weight in a layer -> forward operations."""
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    widths = dict(zip(_INPUTS, (q, q, kv, kv, kv), strict=True))
    widths["self_attn.o_proj.weight"] = q
    widths |= {f"mlp.{name}_proj.weight": config.intermediate_size for name in ("gate", "up", "down")}
    return {name: 2 * tokens * config.hidden_size * width for name, width in widths.items()}


def _attention(config: NeoConfig, pairs: int) -> int:
    """One layer's scores and weighted values, forward."""
    return 2 * pairs * config.num_attention_heads * 3 * config.head_dim


def _head(config: NeoConfig, supervised: int) -> int:
    """The head, forward."""
    return 2 * supervised * config.hidden_size * config.vocab_size
