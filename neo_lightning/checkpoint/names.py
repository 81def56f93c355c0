"""Tensor names: ours are the released ones, so the only table is Qwen3's, plus what a config expects to find.

Qwen3 folder                          NEO without its pre-buffer
model.<rest>                          language_model.model.<rest>
lm_head.weight                        language_model.lm_head.weight
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo

EMBEDDINGS = "language_model.model.embed_tokens.weight"
HEAD = "language_model.lm_head.weight"


def expected_shapes(config: NeoConfig) -> dict[str, torch.Size]:
    """Name and shape of every parameter, in the model's order."""
    with torch.device("meta"):
        return {name: p.shape for name, p in Neo(config).named_parameters()}


def to_qwen3(name: str) -> str:
    """Our name of a backbone tensor -> Qwen3's."""
    return name.removeprefix("language_model.")


def without_tied_head(tensors: Mapping[str, Tensor], head: str, embeddings: str) -> dict[str, Tensor]:
    """A tied model's tensors without a stored copy of the embeddings as head.

    Raises:
        ValueError: a head is stored and is not the embeddings.
    """
    if head in tensors and embeddings in tensors and not torch.equal(tensors[head], tensors[embeddings]):
        raise ValueError(
            f"config.json says tie_word_embeddings, but {head} differs from {embeddings}; "
            'if the head is meant, set "tie_word_embeddings": false in config.json (and in its llm_config)'
        )
    return {name: tensor for name, tensor in tensors.items() if name != head}
