"""Arms against other people's networks: tiny random ones of transformers, logits and gradients.

fuyu, solo      FuyuForCausalLM around a Qwen3: a linear patch, causal, one-dimensional positions
encoder-based   InternVLForConditionalGeneration around a Qwen3: encoder, projector and language model
mixed mask      Gemma 4 unified's mask by blocks of vision tokens, in some layers only
discrete ids    Emu3's language model on token ids: images that come as tokens of the vocabulary
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neo_lightning.checkpoint.names import to_qwen3
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.patch import square_weight
from neo_lightning.model.neo import Neo
from neo_lightning.types import PackedBatch
from tests.model.design.support import document, row, states
from tests.model.support import relative, small_config

SIZES = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
TEXT = {"model_type": "qwen3", **SIZES, **HEADS, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
TEXT |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "pad_token_id": 0}
PLAIN = {"rope": {"kind": "1d"}, "mask": {"kind": "causal"}, "hw_heads": False}


def ours(**design: Any) -> Neo:
    sizes = {
        **SIZES,
        **HEADS,
        "extra_num_layers": 0,
        "image_token_id": 318,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
    }
    return Neo(small_config(**sizes, patch_hidden_size=16, design={**PLAIN, **design}))


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if parameter.dim() == 1 else 0.15 * noise)


def take_language_model(model: Neo, theirs: nn.Module, where: str) -> dict[str, str]:
    """Copy it; our name -> theirs."""
    table = {n: to_qwen3(n) for n, _ in model.named_parameters() if not n.startswith("vision_model.")}
    table = {n: t if t == "lm_head.weight" else where + t.removeprefix("model.") for n, t in table.items()}
    found = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in table:
                parameter.copy_(found[table[name]])
    return table


def ids_of(config: NeoConfig, batch: PackedBatch) -> Tensor:
    assert int(batch.input_ids.max()) < config.vocab_size
    return batch.input_ids[None]


def compare(
    model: Neo, theirs: nn.Module, batch: PackedBatch, inputs: dict[str, Tensor], table: dict[str, str]
) -> None:
    """Logits within 1e-5, and gradients of one loss within 1e-4."""
    mine = model.logits(states(model, batch))
    other = theirs(**inputs, use_cache=False).logits[0]
    assert relative(mine, other) < 1e-5
    weight = torch.randn(mine.shape, generator=torch.Generator().manual_seed(9))
    (mine * weight).sum().backward()
    (other * weight).sum().backward()
    grads = dict(theirs.named_parameters())
    parameters = dict(model.named_parameters())
    for name, other_name in table.items():
        found, wanted = parameters[name].grad, grads[other_name].grad
        assert found is not None
        assert wanted is not None
        assert relative(found, wanted) < 1e-4, name


@pytest.mark.parametrize("kind", ["linear", "linear_no_bias"])
def test_fuyu_and_solo(kind: str) -> None:
    from transformers import FuyuConfig, FuyuForCausalLM

    theirs = FuyuForCausalLM(
        FuyuConfig(text_config=dict(TEXT), patch_size=8, image_token_id=318, tie_word_embeddings=False)
    ).eval()
    randomise(theirs)
    model = ours(patch={"kind": kind, "side": 8, "position": "none"}, row_tokens={"kind": "id"})
    table = take_language_model(model, theirs, "model.language_model.")
    embedding, vision = model.embeddings, theirs.model.vision_embed_tokens
    with torch.no_grad():
        embedding.patch_embedding.weight.copy_(vision.weight.view(-1, 3, 8, 8))
        if kind == "linear":
            embedding.patch_embedding.bias.copy_(vision.bias)
        else:
            vision.bias.zero_()
    of = document(model.config, [(2, 3)], text=6)
    batch = row(model.config, [of])
    # their patches are whole squares, ours come as four quarters of one
    from neo_lightning.data.media.image import unpatchify
    from neo_lightning.model.patch_embed import normalise

    picture = unpatchify(normalise(of.patches), 4, 6)
    squares = picture.view(3, 2, 8, 3, 8).permute(1, 3, 0, 2, 4).reshape(1, 6, 192)
    inputs = {"input_ids": ids_of(model.config, batch), "pixel_values": squares}
    compare(model, theirs, batch, inputs, table)
    found = embedding.patch_embedding.weight.grad
    assert relative(found.flatten(1), vision.weight.grad) < 1e-4
    assert square_weight(embedding.patch_embedding).shape == (64, 192)


@pytest.mark.parametrize("bias", [True, False])
def test_internvl(bias: bool) -> None:
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    vision |= {"image_size": [16, 16], "patch_size": [4, 4], "attention_bias": bias, "layer_norm_eps": 1e-6}
    vision |= {"use_mean_pooling": False, "use_absolute_position_embeddings": True, "norm_type": "layer_norm"}
    theirs = InternVLForConditionalGeneration(
        InternVLConfig(
            vision_config=vision,
            text_config=dict(TEXT),
            image_token_id=318,
            downsample_ratio=0.5,
            tie_word_embeddings=False,
        )
    ).eval()
    randomise(theirs)
    encoder = {"layers": 2, "hidden_size": 24, "intermediate_size": 40, "heads": 3, "table": 4}
    model = ours(encoder={**encoder, "class_token": True, "bias": bias}, patch={"side": 8})
    table = take_language_model(model, theirs, "model.language_model.")
    mine, tower = model.embeddings.encoder, theirs.model.vision_tower
    pairs = [(mine.norm, tower.layernorm)]
    pairs.append((mine.patch_embedding, tower.embeddings.patch_embeddings.projection))
    for block, layer in zip(mine.blocks, tower.encoder.layer, strict=True):
        pairs += [(block.norm_attention, layer.layernorm_before), (block.norm_mlp, layer.layernorm_after)]
        pairs += [(block.o_proj, layer.attention.projection_layer)]
        pairs += [(block.up_proj, layer.mlp.fc1), (block.down_proj, layer.mlp.fc2)]
    projector, theirs_projector = model.embeddings.projector, theirs.model.multi_modal_projector
    pairs.append((projector.norm, theirs_projector.layer_norm))
    pairs += [(projector.up_proj, theirs_projector.linear_1), (projector.out_proj, theirs_projector.linear_2)]
    with torch.no_grad():
        for own, other in pairs:
            own.load_state_dict(other.state_dict())
        positions = tower.embeddings.position_embeddings[0]
        mine.table.copy_(positions[1:].view(4, 4, 24))
        mine.class_token.copy_(tower.embeddings.cls_token[0, 0] + positions[0])
        for block, layer in zip(mine.blocks, tower.encoder.layer, strict=True):
            names = ("q_proj", "k_proj", "v_proj")
            block.qkv_proj.weight.copy_(torch.cat([getattr(layer.attention, n).weight for n in names]))
            if bias:
                block.qkv_proj.bias.copy_(torch.cat([getattr(layer.attention, n).bias for n in names]))
            block.attention_scale.copy_(layer.lambda_1)
            block.mlp_scale.copy_(layer.lambda_2)
    of = document(model.config, [(2, 2), (2, 2)], text=6)
    batch = row(model.config, [of])
    from neo_lightning.data.media.image import unpatchify
    from neo_lightning.model.patch_embed import normalise

    pictures = torch.stack([unpatchify(unit, 4, 4) for unit in normalise(of.patches).split(16)])
    compare(model, theirs, batch, {"input_ids": ids_of(model.config, batch), "pixel_values": pictures}, table)
    for own, other in pairs[1:2]:
        assert relative(own.weight.grad, other.weight.grad) < 1e-4
    assert relative(projector.up_proj.weight.grad, theirs_projector.linear_1.weight.grad) < 1e-4
    assert relative(mine.blocks[0].attention_scale.grad, tower.encoder.layer[0].lambda_1.grad) < 1e-4


def test_gemma_4_s_mask_by_blocks() -> None:
    from transformers.masking_utils import blockwise_overlay
    from transformers.models.gemma4_unified.modeling_gemma4_unified import get_block_sequence_ids_for_mask

    model = ours(mask={"kind": "unit", "causal_layers": [1]})
    batch = row(model.config, [document(model.config, [(2, 3), (1, 4)])])
    visual = torch.zeros(1, batch.input_ids.numel(), dtype=torch.long)
    visual[0, batch.visual_index] = 1
    overlay = blockwise_overlay(get_block_sequence_ids_for_mask(visual, visual.device))
    place = torch.arange(visual.shape[1])
    zero = torch.tensor(0)
    mixed = (place[None] <= place[:, None]) | overlay(zero, zero, place[:, None], place[None])
    packed = model.row(batch.positions, batch.start, batch.limit)
    for layer, wanted in enumerate([mixed, place[None] <= place[:, None], mixed]):
        at: Any = packed.at(layer)
        seen = (place[None] >= at.start[:, None]) & (place[None] < at.limit[:, None])
        assert torch.equal(seen, wanted), layer


def test_emu3_on_token_ids() -> None:
    """Images as ids of the vocabulary are text, and need nothing of ours. Emu3's layers lack Qwen3's norms of queries
    and keys alone: here its projections get them."""
    from transformers import Emu3ForCausalLM, Emu3TextConfig

    text = {key: value for key, value in TEXT.items() if key != "model_type"}
    theirs = Emu3ForCausalLM(Emu3TextConfig(**text, attention_bias=False)).eval()
    model = ours()
    randomise(theirs)
    randomise(model)
    found = [n for n, _ in model.named_parameters() if "_norm.weight" not in n and not n.startswith("vision_model.")]
    parameters, others = dict(model.named_parameters()), dict(theirs.named_parameters())
    table = {name: to_qwen3(name) for name in found}
    with torch.no_grad():
        for name, other in table.items():
            parameters[name].copy_(others[other])

    def normed(norm: nn.Module) -> Any:
        return lambda module, inputs, y: norm(y.unflatten(-1, (-1, 16))).flatten(-2)

    for own, layer in zip(model.layers, theirs.model.layers, strict=True):
        layer.self_attn.q_proj.register_forward_hook(normed(own.self_attn.q_norm))
        layer.self_attn.k_proj.register_forward_hook(normed(own.self_attn.k_norm))
    batch = row(model.config, [document(model.config, [], text=30)])
    compare(model, theirs, batch, {"input_ids": ids_of(model.config, batch)}, table)
