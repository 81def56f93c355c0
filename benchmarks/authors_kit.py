"""The authors' training kit as a peer of `step.py --kit DIR`: their model, loss and recomputation on our rows.

The kit is VLMTrainKit of github.com/EvolvingLMMs-Lab/NEO (commit 78faae9). It is not part of this project; whoever
wants the comparison clones it, and gives it the transformers that it names, beside ours:

    git clone https://github.com/EvolvingLMMs-Lab/NEO
    pip install --target kit_needs --no-deps "transformers==4.57.1" "huggingface_hub<1" "tokenizers<=0.23"
    pip install --target kit_needs requests
    PYTHONPATH=kit_needs python benchmarks/step.py --kit NEO/VLMTrainKit --rows image

As published it cannot start. Repaired here, without touching its files:

- its `train.py` builds the model without the tokenizer that the function asks for: the model is built from its classes;
- its list of layer types has 32 entries whatever the number of layers: it is given one of the right length;
- its freezing is never called, and would leave the pre-buffer frozen: stage 1 trains what the papers say;
- its mask is made on a CUDA device: it is told ours;
- its mask wants images that begin with their token, which our rows then get in both models.

Left as published: FlexAttention compiled with its defaults, recomputation of whole layers, eager norms and rotations,
logits of every token, the padded patch embedding. In its favour: bfloat16 weights trained as they are (its DeepSpeed
keeps float32 masters), no gathering, and our fused AdamW. On a CPU FlexAttention has no backward pass: there the losses
are compared and nothing is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from timing import DEVICE
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.patch_embed import normalise
from neo_lightning.types import IGNORE, PackedBatch


def begin_images(row: PackedBatch, config: NeoConfig) -> PackedBatch:
    """The same row with the token that begins an image in front of each."""
    shown = row.input_ids == config.image_token_id
    begins = shown & ~shown.roll(1)
    begins[0] = False  # nothing in front
    return replace(row, input_ids=row.input_ids.masked_fill(begins.roll(-1), config.image_start_token_id))


def kit_model(kit: Path, config: NeoConfig, weights: dict[str, Tensor]) -> nn.Module:
    """Their model with our weights."""
    sys.path.insert(0, str(kit))
    try:
        from neo.model import modeling_neo_chat as modeling
        from neo.model.configuration_neo_chat import NEOChatConfig
        from neo.model.configuration_neo_llm import NEOLLMConfig
        from neo.model.configuration_neo_vit import NEOVisionConfig
    except ImportError as error:
        raise SystemExit(f"--kit {kit}: {error}; see the docstring of benchmarks/authors_kit.py") from error
    finally:
        sys.path.remove(str(kit))
    modeling.create_block_mask = partial(modeling.create_block_mask, device=DEVICE.type)
    language: Any = NEOLLMConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        extra_num_layers=config.extra_num_layers,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        rms_norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_theta,
        rope_theta_hw=config.rope_theta_hw,
        max_position_embeddings=config.max_position_embeddings,
        max_position_embeddings_hw=config.max_position_embeddings_hw,
        tie_word_embeddings=config.tie_word_embeddings,
        architectures=["Qwen3ForCausalLM"],
    )
    language.layer_types = ["full_attention"] * config.num_hidden_layers
    vision: Any = NEOVisionConfig(
        llm_hidden_size=config.hidden_size,
        hidden_size=config.patch_hidden_size,
        rope_theta_vision=config.rope_theta_vision,
    )
    model: nn.Module = modeling.NEOChatModel(NEOChatConfig(vision_config=vision, llm_config=language))
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = {"language_model.lm_head.weight"} if config.tie_word_embeddings else set()
    if unexpected or set(missing) - tied:
        raise SystemExit(f"--kit {kit}: its model has other weights: {missing[:3]} missing, {unexpected[:3]} unknown")
    return model


def kit_loss(model: Any, config: NeoConfig, recompute: bool) -> Callable[[PackedBatch], Tensor]:
    """Their forward pass on one of our rows; gives the weighted sum over its tokens, as ours does."""
    model.img_context_token_id, model.img_start_token_id = config.image_token_id, config.image_start_token_id
    model.config.use_cache = False
    model.train()
    if recompute:
        model.gradient_checkpointing_enable({"use_reentrant": False})

    def loss(row: PackedBatch) -> Tensor:
        first = torch.zeros_like(row.start, dtype=torch.bool)
        first[0] = True
        bounds = (first | (row.start != row.start.roll(1))).nonzero()[:, 0]
        # a label stands at its own token there, at the one before it here
        labels, weights = row.targets.roll(1), row.weights.roll(1)
        labels[0], weights[0] = IGNORE, 0.0
        found = model(
            input_ids=row.input_ids[None],
            indexes=row.positions[:, 0].long(),
            labels=labels[None],
            pixel_values=[normalise(row.patches)],
            seq_boundaries=torch.cat([bounds, bounds.new_tensor([row.start.numel()])]),
            image_grid_hw=[row.grids.long()],
            loss_weight=weights[None],
        )
        return found.loss * row.weights.sum()

    return loss
