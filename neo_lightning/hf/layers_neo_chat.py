"""Layers of NEO: the patch embedding, attention over the axes T, H and W, and the decoder layer.

Shapes: B batch, L tokens, P patches, n images and frames, D head_dim.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_neo_chat import NEOChatTextConfig, NEOChatVisionConfig
from .positions_neo_chat import MERGE

Rotary = tuple[Tensor, Tensor]
"""Cosines and sines, float32."""


def rotary(position: Tensor, width: int, theta: float) -> Rotary:
    """Of the width / 2 angles of each position: [...] int -> twice [..., width / 2].

    Angles are float64 where a device has it: in float32 one at position 30,000 is off by 0.002.
    """
    dtype = torch.float32 if position.device.type == "mps" else torch.float64
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=dtype, device=position.device) / width)
    angle = position.to(dtype)[..., None] * frequencies
    return angle.cos().float(), angle.sin().float()


def rotate_half(x: Tensor, turn: Rotary) -> Tensor:
    """Turn the pairs (i, i + width / 2) of x [B, L, heads, width] by angles [B, L, width / 2], in float32."""
    cos, sin = (part[:, :, None] for part in turn)
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


class NEOChatRMSNorm(nn.Module):
    """x / rms(x) * weight, the mean in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> the same."""
        high = x.float()
        return self.weight * (high * torch.rsqrt(high.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalise(patches: Tensor) -> Tensor:
    """[P, 3 * 16 * 16] uint8 (channel, row, column) -> float32 with the ImageNet mean and deviation."""
    mean, std = (torch.tensor(values, device=patches.device)[:, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return ((patches.float().unflatten(1, (3, -1)) / 255 - mean) / std).flatten(1)


class NEOChatVisionEmbeddings(nn.Module):
    """Patches -> visual tokens, each of 2 x 2 patches."""

    def __init__(self, config: NEOChatVisionConfig) -> None:
        super().__init__()
        self.config = config
        size = config.patch_size
        self.patch_embedding = nn.Conv2d(config.num_channels, config.hidden_size, size, size)
        self.dense_embedding = nn.Conv2d(config.hidden_size, config.llm_hidden_size, MERGE, MERGE)

    def forward(self, pixel_values: Tensor, grid_hw: Tensor) -> Tensor:
        """[P, 3 * 16 * 16] patches of images with grids [n, 2] -> [P / 4, hidden], image after image, row-major."""
        weight, size = self.patch_embedding.weight, self.config.patch_size
        patches = normalise(pixel_values) if pixel_values.dtype == torch.uint8 else pixel_values
        patches = patches.to(weight.device, weight.dtype).view(-1, self.config.num_channels, size, size)
        x = F.gelu(self.patch_embedding(patches).flatten(1))
        embedded, first = [], 0
        for rows, columns in grid_hw.tolist():
            image = x[first : first + rows * columns].view(rows, columns, -1)
            first += rows * columns
            image = self.rotate(image).permute(2, 0, 1)[None]  # [1, channels, rows, columns]
            embedded.append(self.dense_embedding(image)[0].flatten(1).t())
        return torch.cat(embedded)

    def rotate(self, image: Tensor) -> Tensor:
        """[rows, columns, channels]: the first half of the channels by the column, the second by the row.

        Pairs are neighbours here, (2k, 2k + 1).
        """
        rows, columns, channels = image.shape
        theta = self.config.rope_theta_vision
        by_column = rotary(torch.arange(columns, device=image.device), channels // 2, theta)
        by_row = rotary(torch.arange(rows, device=image.device), channels // 2, theta)
        cos, sin = (
            torch.cat([column.expand(rows, -1, -1), row[:, None].expand(-1, columns, -1)], -1)
            for column, row in zip(by_column, by_row, strict=True)
        )
        even, odd = image.float()[..., 0::2], image.float()[..., 1::2]
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2).to(image.dtype)


class NEOChatVisionModel(nn.Module):
    """Holds the patch embedding, under its released name."""

    def __init__(self, config: NEOChatVisionConfig) -> None:
        super().__init__()
        self.embeddings = NEOChatVisionEmbeddings(config)


def eager_attention_forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **_: Any
) -> tuple[Tensor, Tensor]:
    """Attention as it is defined. Returns [B, L, heads, D] and the weights [B, heads, L, keys]."""
    key, value = (x.repeat_interleave(query.shape[1] // key.shape[1], 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
    return (weights @ value).transpose(1, 2), weights


class NEOChatAttention(nn.Module):
    """Grouped-query attention whose queries and keys are [T | H | W] wide (D + D / 2 + D / 2), and values D."""

    def __init__(self, config: NEOChatTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5  # of the T axis, not of the full width
        self.is_causal = False  # the mask says all
        width, half, eps = config.hidden_size, config.head_dim // 2, config.rms_norm_eps
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(width, queries, bias=False)
        self.q_proj_hw = nn.Linear(width, queries, bias=False)
        self.k_proj = nn.Linear(width, keys, bias=False)
        self.k_proj_hw = nn.Linear(width, keys, bias=False)
        self.v_proj = nn.Linear(width, keys, bias=False)
        self.o_proj = nn.Linear(queries, width, bias=False)
        self.q_norm, self.k_norm = NEOChatRMSNorm(self.head_dim, eps), NEOChatRMSNorm(self.head_dim, eps)
        self.q_norm_h, self.k_norm_h = NEOChatRMSNorm(half, eps), NEOChatRMSNorm(half, eps)
        self.q_norm_w, self.k_norm_w = NEOChatRMSNorm(half, eps), NEOChatRMSNorm(half, eps)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Rotary, Rotary, Rotary],
        attention_mask: Tensor,
        implementation: str = "eager",
        cache: Cache | None = None,
        cache_position: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """[B, L, hidden] -> [B, L, hidden], and the attention weights where the implementation gives them."""

        def axes(t: Tensor, hw: Tensor, norms: tuple[nn.Module, nn.Module, nn.Module]) -> Tensor:
            """Projections [B, L, heads * D] -> [B, heads, L, 2 D]."""
            t = t.unflatten(-1, (-1, self.head_dim))
            h, w = hw.unflatten(-1, (-1, self.head_dim)).chunk(2, -1)
            turned = [
                rotate_half(norm(x), turn) for x, norm, turn in zip((t, h, w), norms, position_embeddings, strict=True)
            ]
            return torch.cat(turned, -1).transpose(1, 2)

        x = hidden_states
        query = axes(self.q_proj(x), self.q_proj_hw(x), (self.q_norm, self.q_norm_h, self.q_norm_w))
        key = axes(self.k_proj(x), self.k_proj_hw(x), (self.k_norm, self.k_norm_h, self.k_norm_w))
        value = self.v_proj(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
        if cache is not None:
            # transformers 5.0's static cache asks where; later ones know
            key, value = cache.update(key, value, self.layer_idx, {"cache_position": cache_position})
        attend = eager_attention_forward if implementation == "eager" else ALL_ATTENTION_FUNCTIONS[implementation]
        output, weights = attend(self, query, key, value, attention_mask, scaling=self.scaling, dropout=0.0)
        return self.o_proj(output.flatten(2)), weights


class NEOChatMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: NEOChatTextConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden] -> [..., hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class NEOChatDecoderLayer(GradientCheckpointingLayer):
    """One layer, of the pre-buffer and of the backbone alike."""

    def __init__(self, config: NEOChatTextConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = NEOChatAttention(config, layer_idx)
        self.mlp = NEOChatMLP(config)
        self.input_layernorm = NEOChatRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = NEOChatRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, hidden_states: Tensor, **attention: Any) -> tuple[Tensor, Tensor | None]:
        """See `NEOChatAttention`."""
        attended, weights = self.self_attn(self.input_layernorm(hidden_states), **attention)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), weights
