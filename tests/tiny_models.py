"""Random models of a few thousand weights, for tests that ask them, export them or grow them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo


def tiny_config(tokenizer: Tokenizer, **changes: Any) -> NeoConfig:
    """One layer in front of one layer, for a tokenizer."""
    fields = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "extra_num_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "patch_hidden_size": 16,
        "tie_word_embeddings": False,
        "image_token_id": tokenizer.context_id,
        "image_start_token_id": tokenizer.img_start_id,
    }
    return NeoConfig(**fields | changes)


def random_model(config: NeoConfig, seed: int) -> Neo:
    """A model with random weights, so large that its answers differ from question to question."""
    model = Neo(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3 if parameter.ndim > 1 else 1.0, generator=generator)
    return model.eval()


def tiny_qwen3(folder: Path, **changes: Any) -> Qwen3ForCausalLM:
    """A Qwen3 of sizes that no preset has, saved by transformers: weights large, norms away from one."""
    torch.manual_seed(0)
    fields = {
        "vocab_size": 512,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rope_theta": 1e6,
        "attn_implementation": "eager",
    }
    model = Qwen3ForCausalLM(Qwen3Config(**fields | changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(1 + 0.2 * torch.randn_like(parameter) if parameter.dim() == 1 else parameter * 5)
    model.save_pretrained(folder)
    return model
