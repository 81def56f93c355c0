"""Floating-point operations of a training step, from a formula with exact mask pairs.

Counted are the matrix products that the step needs, 2 operations per multiply-add, forward and backward:

    product with a weight    forward 2 r i o    backward 2 r i o to its input, 2 r i o to the weight if that is trained
    attention                forward 2 (D + E) per pair and query head, backward twice that

with r rows, i inputs, o outputs, D = 2 head_dim, E = head_dim, and a pair for every key that a token sees (sum of
limit - start). A low-rank term of rank R counts as a product of i inputs and R outputs and one of R and o. The head is
counted on supervised tokens only, an encoder's attention on the squares of its pictures' patches. Not counted:
element-wise work, whatever is computed a second time (activation checkpointing, attention's scores in the backward
pass), and masked scores.

A gradient to an input is needed where something trained lies in front of it: pixels never need one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from neo_lightning.model.config import PATCH_CHANNELS, NeoConfig
from neo_lightning.model.design.products import Step, layer_path, vision_path
from neo_lightning.types import CostRatio

_MANY = 10**6
_CONV1 = "vision_model.embeddings.patch_embedding.weight"
_CONV2 = "vision_model.embeddings.dense_embedding.weight"
_EMBEDDINGS = "language_model.model.embed_tokens.weight"


def flops_per_step(
    config: NeoConfig,
    *,
    tokens: int,
    patches: int,
    pairs: int,
    supervised: int,
    patch_pairs: int = 0,
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
        patch_pairs: sum over pictures of their patches squared; only an encoder has to do with it.
        trained: whether the parameter of a name is trained; None: all are.
        ranks: weight -> rank of its low-rank term (`model.lora`), which is trained.

    Returns:
        Forward plus backward.
    """
    on, ranks = trained or (lambda name: True), ranks or {}
    counts = {"tokens": tokens, "patches": patches, "pairs": pairs, "supervised": supervised}
    forward = forward_flops(config, **counts, patch_pairs=patch_pairs)
    backward = backward_flops(config, **counts, patch_pairs=patch_pairs, trained=on, ranks=ranks)
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


def forward_flops(
    config: NeoConfig, *, tokens: int, patches: int, pairs: int, supervised: int, patch_pairs: int = 0
) -> int:
    """Operations of one forward pass; see `flops_per_step`."""
    path = [*vision_path(config, patches, patch_pairs), *_layers(config, tokens, patches, pairs)]
    return sum(step.forward for step in path) + _head(config, supervised)


def layer_flops(config: NeoConfig, *, tokens: int, pairs: int) -> int:
    """Operations of the first layer's forward pass; see `flops_per_step`."""
    return sum(step.forward for step in layer_path(config, 0, tokens, 0, pairs))


def backward_flops(
    config: NeoConfig,
    *,
    tokens: int,
    patches: int,
    pairs: int,
    supervised: int,
    patch_pairs: int = 0,
    trained: Callable[[str], bool],
    ranks: Mapping[str, int] | None = None,
) -> int:
    """Operations of one backward pass, those in low-rank terms left out; see `flops_per_step`."""
    ranks = ranks or {}
    total, upstream = _back(vision_path(config, patches, patch_pairs), trained, ranks, False)
    upstream = upstream or trained(_EMBEDDINGS)
    layers, upstream = _back(_layers(config, tokens, patches, pairs), trained, ranks, upstream)
    upstream = upstream or trained("language_model.model.norm.weight")
    head = _EMBEDDINGS if config.tie_word_embeddings else "language_model.lm_head.weight"
    return total + layers + _head(config, supervised) * (trained(head) + upstream)


def _back(
    path: Iterable[Step], trained: Callable[[str], bool], ranks: Mapping[str, int], upstream: bool
) -> tuple[int, bool]:
    """Backward operations of a path, and whether something trained lies in front of its end."""
    total = 0
    for step in path:  # inputs are reached by gradients if anything in front is trained
        on = {name: trained(name) for name in (*step.products, *step.others)}
        total += sum(cost * (on[name] + upstream) for name, cost in step.products.items())
        upstream = upstream or any(on.values()) or any(name in ranks for name in step.products)
        total += upstream * 2 * step.attention
    return total, upstream


def _term_flops(config: NeoConfig, tokens: int, patches: int, ranks: Mapping[str, int]) -> int:
    """Low-rank terms, forward and backward: both products, and the gradients to their inputs and weights."""
    q, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    hidden, inner, channels = config.hidden_size, config.intermediate_size, config.patch_hidden_size
    widths = {"q_proj": hidden + q, "q_proj_hw": hidden + q, "o_proj": q + hidden}
    widths |= dict.fromkeys(("k_proj", "k_proj_hw", "v_proj"), hidden + kv)
    widths |= dict.fromkeys(("gate_proj", "up_proj", "down_proj"), hidden + inner)
    total = 0
    for name, rank in ranks.items():
        if name == _CONV1:  # pixels have no gradient
            total += patches * rank * (2 * 2 * PATCH_CHANNELS + 3 * 2 * channels)
        elif name == _CONV2:
            total += 3 * 2 * patches // 4 * rank * (4 * channels + hidden)
        else:
            total += 3 * 2 * tokens * rank * widths[name.split(".")[-2]]
    return total


def _layers(config: NeoConfig, tokens: int, patches: int, pairs: int) -> list[Step]:
    visual = min(tokens, patches // 4)
    return [step for i in range(config.num_hidden_layers) for step in layer_path(config, i, tokens, visual, pairs)]


def _head(config: NeoConfig, supervised: int) -> int:
    """The head, forward."""
    return 2 * supervised * config.hidden_size * config.vocab_size
