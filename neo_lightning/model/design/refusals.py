"""Combinations that make no sense, each with the reason: a table of (does it hold, what to say)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from neo_lightning.model.design.axes import LINEARS

if TYPE_CHECKING:
    from neo_lightning.model.config import NeoConfig

_Rule = tuple[Callable[["NeoConfig"], bool], str]


def _range_is_wrong(layers: tuple[int, ...] | None, config: NeoConfig) -> bool:
    return layers is not None and not (len(layers) == 2 and 0 <= layers[0] < layers[1] <= config.num_hidden_layers)


REFUSALS: tuple[_Rule, ...] = (
    # ---- patch
    (
        lambda c: c.design.patch.side < 4 or c.design.patch.side % 2 != 0,
        "patch.side must be even and at least 4 pixels: a visual token is cut into 2 x 2 patches",
    ),
    (lambda c: c.design.patch.table < 1, "patch.table must be at least 1"),
    (
        lambda c: c.design.patch.kind.startswith("linear") and c.hidden_size % 4 != 0,
        "a linear patch's position is as wide as the network, whose hidden_size must be a multiple of 4",
    ),
    # ---- rope
    (
        lambda c: c.design.rope.kind == "native" and not c.design.hw_heads,
        "rope native turns the H and W heads by row and column; with hw_heads false nothing would know the place: take "
        "rope 1d, m, interleaved_m, mm or video",
    ),
    (
        lambda c: c.design.rope.sections is not None and c.design.rope.kind not in ("m", "interleaved_m"),
        "rope.sections are of the kinds m and interleaved_m; the others have theirs by definition",
    ),
    (
        lambda c: (
            c.design.rope.sections is not None
            and (len(c.design.rope.sections) != 3 or sum(c.design.rope.sections) != c.head_dim // 2)
        ),
        "rope.sections are three numbers of pairs (t, h, w) that add up to head_dim / 2",
    ),
    (
        lambda c: (
            c.design.rope.kind == "interleaved_m"
            and any(3 * part > c.head_dim // 2 for part in (c.design.rope.sections or ())[1:])
        ),
        "rope.sections: interleaved, h and w can have a third of the pairs each at most",
    ),
    (
        lambda c: not set(c.design.rope.theta) <= set("thw") or any(not v > 0 for v in c.design.rope.theta.values()),
        "rope.theta holds positive bases of the axes t, h and w",
    ),
    # ---- mask
    (
        lambda c: c.design.mask.kind == "all_images",
        "mask all_images: a visual token that sees the other images of its document, but not the text between them, "
        "sees no interval, and no kernel here computes it; `unit` differs from it in documents of several images alone",
    ),
    (
        lambda c: c.design.mask.kind == "causal" and bool(c.design.causal_layers(c.extra_num_layers)),
        "mask causal is so in all layers: mask.causal_layers and pre_buffer.mask have nothing to change",
    ),
    (
        lambda c: any(not 0 <= layer < c.num_hidden_layers for layer in c.design.mask.causal_layers),
        "mask.causal_layers names a layer that there is not; they count from 0, the pre-buffer's first",
    ),
    (
        lambda c: len(c.design.causal_layers(c.extra_num_layers)) == c.num_hidden_layers,
        "every layer is made causal: say `mask: {kind: causal}`",
    ),
    (
        lambda c: c.design.pre_buffer.mask == "causal" and c.extra_num_layers == 0,
        "pre_buffer.mask: there is no pre-buffer (extra_num_layers is 0)",
    ),
    # ---- weights of visual tokens' own
    (
        lambda c: _range_is_wrong(c.design.modality_weights.layers, c),
        "modality_weights.layers is [first, last) of the layers, the pre-buffer's first",
    ),
    (
        lambda c: c.design.modality_weights.layers is not None and not c.design.modality_weights.parts,
        "modality_weights has layers, but no parts: any of norm, qkv, o, ffn",
    ),
    (
        lambda c: _range_is_wrong(c.design.vision_lora.layers, c),
        "vision_lora.layers is [first, last) of the layers, the pre-buffer's first",
    ),
    (
        lambda c: c.design.vision_lora.rank < 0 or (c.design.vision_lora.rank > 0 and not c.design.vision_lora.linears),
        "vision_lora takes a rank of at least 1 and at least one linear layer",
    ),
    (
        lambda c: not set(c.design.vision_lora.linears) <= set(LINEARS),
        f"vision_lora.linears are of {', '.join(LINEARS)}",
    ),
    (
        lambda c: c.design.vision_lora.rank > 0 and bool(c.design.modality_weights.parts),
        "modality_weights and vision_lora are two answers to one question: weights of the visual tokens' own",
    ),
    # ---- encoder
    (
        lambda c: (
            c.design.encoder.layers > 0
            and (c.design.patch.kind, c.design.patch.position) != ("conv_gelu_conv", "rotary")
        ),
        "an encoder has a patch embedding and positions of its own: patch.kind and patch.position have no effect",
    ),
    (
        lambda c: (
            c.design.encoder.layers > 0
            and (c.design.encoder.heads < 1 or c.design.encoder.hidden_size % c.design.encoder.heads != 0)
        ),
        "encoder.heads must divide encoder.hidden_size",
    ),
)


def refuse(config: NeoConfig) -> None:
    """Raises ValueError: the design makes no sense; says why, all reasons at once."""
    if found := [reason for holds, reason in REFUSALS if holds(config)]:
        raise ValueError("model.design: " + "\n  ".join(found))
