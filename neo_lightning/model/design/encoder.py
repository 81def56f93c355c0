"""A vision transformer in place of the patch embedding: pre-norm blocks over each picture, pixel unshuffle, projector.

    patches --Conv + positions--> blocks over each picture --2 x 2 unshuffled--> LN, MLP --> visual tokens

The structure of InternViT-300M and of InternVL's projector (transformers `internvl` gives the same numbers), but that
pictures keep their own size: all of a row are one packed sequence, and each is an interval of it. Patches come two by
two, so a token's four are neighbours all the way, and unshuffling is a view.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.axes import Encoder
from neo_lightning.model.design.positions import stretched
from neo_lightning.model.patch_embed import merged_places, normalise
from neo_lightning.ops.interval_attention import choose_backend, interval_attention, prepare_intervals


class Block(nn.Module):
    """One block, its two branches scaled by a vector each."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        width = encoder.hidden_size
        self.heads = encoder.heads
        self.norm_attention = nn.LayerNorm(width, eps=encoder.eps)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=encoder.bias)
        self.o_proj = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width, eps=encoder.eps)
        self.up_proj = nn.Linear(width, encoder.intermediate_size)
        self.down_proj = nn.Linear(encoder.intermediate_size, width)
        self.attention_scale = nn.Parameter(torch.empty(width))
        self.mlp_scale = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor, start: Tensor, limit: Tensor, backend: str, prepared: object) -> Tensor:
        """[P, width] patches that see [start, limit) each -> the same."""
        q, k, v = self.qkv_proj(self.norm_attention(x)).unflatten(1, (3, self.heads, -1)).unbind(1)
        scale = q.shape[-1] ** -0.5
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        o = interval_attention(q, k, v, start, limit, scale=scale, backend=backend, prepared=prepared)
        x = x + self.attention_scale * self.o_proj(o.flatten(1))
        return x + self.mlp_scale * self.down_proj(F.gelu(self.up_proj(self.norm_mlp(x))))


class VisionTransformer(nn.Module):
    """Patches of any number of pictures of any size -> features of each patch."""

    def __init__(self, encoder: Encoder, side: int, attention: str) -> None:
        super().__init__()
        self.attention = attention
        self.patch_embedding = nn.Conv2d(3, encoder.hidden_size, side, side)
        self.table = nn.Parameter(torch.empty(encoder.table, encoder.table, encoder.hidden_size))
        self.class_token = nn.Parameter(torch.empty(encoder.hidden_size)) if encoder.class_token else None
        self.blocks = nn.ModuleList(Block(encoder) for _ in range(encoder.layers))
        self.norm = nn.LayerNorm(encoder.hidden_size, eps=encoder.eps)

    def forward(self, pixels: Tensor, places: Tensor, grids: Tensor) -> Tensor:
        """[P, values] normalised, [P, 2], [I, 2], picture after picture -> [P, hidden]."""
        counts, n = grids.long().prod(-1), pixels.shape[0]
        sizes = torch.repeat_interleave(grids.long(), counts, 0, output_size=n)
        conv = self.patch_embedding
        x = F.linear(pixels.to(conv.weight.dtype), conv.weight.flatten(1), conv.bias)
        x = x + stretched(self.table, places, sizes).to(x.dtype)
        unit = torch.repeat_interleave(torch.arange(counts.numel(), device=x.device), counts, output_size=n)
        kept = torch.arange(n, device=x.device)
        if self.class_token is not None:  # in front of each picture
            first = counts.cumsum(0) - counts + torch.arange(counts.numel(), device=x.device)
            kept, counts = kept + unit + 1, counts + 1
            n = n + first.numel()
            unit = torch.repeat_interleave(torch.arange(first.numel(), device=x.device), counts, output_size=n)
            x = x.new_zeros(n, x.shape[1]).index_copy(0, kept, x)
            x = x.index_copy(0, first, self.class_token.to(x.dtype).expand(first.numel(), -1))
        ends = counts.cumsum(0)
        start, limit = (ends - counts)[unit].int(), ends[unit].int()
        backend = choose_backend(self.attention, start.device)
        prepared = prepare_intervals(start, limit, backend)
        for block in self.blocks:
            x = block(x, start, limit, backend, prepared)
        return self.norm(x.index_select(0, kept))


class Projector(nn.Module):
    """Four patches' features -> one visual token."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(inputs)
        self.up_proj, self.out_proj = nn.Linear(inputs, outputs), nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[V, inputs] -> [V, outputs]."""
        return self.out_proj(F.gelu(self.up_proj(self.norm(x))))


class EncoderEmbedding(nn.Module):
    """Takes the patch embedding's place."""

    def __init__(self, config: NeoConfig, attention: str) -> None:
        super().__init__()
        encoder = config.design.encoder
        self.encoder = VisionTransformer(encoder, config.design.patch.side // 2, attention)
        self.projector = Projector(4 * encoder.hidden_size, config.hidden_size)

    def forward(self, patches: Tensor, grids: Tensor) -> Tensor:
        """See `PatchEmbedding`."""
        index, places = merged_places(grids, patches.shape[0])
        pixels = patches.index_select(0, index)
        if pixels.dtype == torch.uint8:
            pixels = normalise(pixels)
        features = self.encoder(pixels, places, grids)
        return self.projector(features.view(-1, 4 * features.shape[1]))
