"""NEO and NEO-ov for transformers: one decoder for text and pixels, without a vision encoder.

    pixel_values --patch embedding--> visual tokens, put in the places of <IMG_CONTEXT>
    input_ids --embedding--> x --decoder layers (pre-buffer, then Qwen3's)--> norm --head--> logits

What is NEO's own: attention over three axes (T from Qwen3's projections, H and W from `q_proj_hw` and `k_proj_hw`),
positions (t, h, w) and a mask in which an image sees itself whole (`positions_neo_chat`). Parameters carry the names of
the released checkpoints.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from .configuration_neo_chat import NEOChatConfig, NEOChatTextConfig
from .generation_neo_chat import NEOChatGenerationMixin
from .layers_neo_chat import NEOChatDecoderLayer, NEOChatRMSNorm, NEOChatVisionModel, rotary
from .loading_neo_chat import check_loaded, unreadable
from .positions_neo_chat import keys_of, mixed_mask, positions_and_units
from .prompt_text_neo_chat import PromptText  # noqa: F401  transformers 5.0 copies what this file imports, and no more

_CACHE = "cache" if "cache" in {f.name for f in fields(CausalLMOutputWithPast)} else "past_key_values"
"""transformers 5.24 renamed it."""


class NEOChatDecoder(nn.Module):
    """Holds the token embeddings, the layers and the final norm."""

    def __init__(self, config: NEOChatTextConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(NEOChatDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm = NEOChatRMSNorm(config.hidden_size, config.rms_norm_eps)


class NEOChatLanguageModel(nn.Module):
    """Holds the decoder and the head."""

    def __init__(self, config: NEOChatTextConfig) -> None:
        super().__init__()
        self.model = NEOChatDecoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)


class NEOChatModel(NEOChatGenerationMixin, PreTrainedModel):
    """The whole network with its head; what `AutoModel` and `AutoModelForImageTextToText` give."""

    config_class = NEOChatConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["NEOChatVisionEmbeddings", "NEOChatDecoderLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = False
    _tied_weights_keys = {  # noqa: RUF012
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight"
    }

    def __init__(self, config: NEOChatConfig) -> None:
        super().__init__(config)
        self.vision_model = NEOChatVisionModel(config.vision_config)
        self.language_model = NEOChatLanguageModel(config.llm_config)
        self.system_message = ""  # of `chat`
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, load_in_8bit: bool = False, **kwargs: Any
    ) -> Any:
        """See transformers. Evaluation programs still say `load_in_8bit`, which transformers 5 no longer knows.

        A ValueError where it is true, a file is damaged or a tensor is missing.
        """
        if load_in_8bit:
            raise ValueError("load_in_8bit: give a quantization_config (transformers' BitsAndBytesConfig) instead")
        source, told = pretrained_model_name_or_path, kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        except SafetensorError as error:
            raise unreadable(source, error) from error
        check_loaded(info, source)
        return (model, info) if told else model

    def _check_and_adjust_attn_implementation(self, attn_implementation: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(attn_implementation, str) and "flash" in attn_implementation:
            raise ValueError(
                f"NEO cannot take {attn_implementation!r}: flash attention knows causal and full masks, and NEO's is "
                "causal over text while an image sees itself whole. Use attn_implementation='sdpa' (or 'eager')"
            )
        return super()._check_and_adjust_attn_implementation(attn_implementation, *args, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        """The token embeddings."""
        return self.language_model.model.embed_tokens

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Put others in their place."""
        self.language_model.model.embed_tokens = value

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.language_model.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Put another in its place."""
        self.language_model.lm_head = new_embeddings

    def get_image_features(self, pixel_values: Tensor, grid_hw: Tensor) -> Tensor:
        """[P, 768] patches and [n, 2] grids -> [P / 4, hidden] visual tokens."""
        return self.vision_model.embeddings(pixel_values, grid_hw)

    def visual_tokens(
        self, input_ids: Tensor | None, x: Tensor, pixel_values: Tensor | None, mm_token_type_ids: Tensor | None
    ) -> Tensor:
        """[B, L] bool: which tokens stand for pixels; x are their embeddings. See `forward`.

        Raises:
            ValueError: nothing says so.
        """
        if mm_token_type_ids is not None:
            return mm_token_type_ids > 0
        if pixel_values is None:
            return torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.config.img_context_token_id is None or input_ids is None:
            raise ValueError(
                "pixels go in the places of config.img_context_token_id in input_ids; where either is missing, pass "
                "mm_token_type_ids, as the processor gives them"
            )
        return input_ids == self.config.img_context_token_id

    def _with_pixels(self, x: Tensor, visual: Tensor, pixel_values: Tensor, grid_hw: Tensor | None) -> Tensor:
        """[B, L, hidden] with the visual tokens in their places."""
        if grid_hw is None:
            raise ValueError("pixel_values need grid_hw, the rows and columns of each image in patches")
        patches = int(grid_hw.prod(-1).sum())
        if patches != pixel_values.shape[0] or patches != 4 * int(visual.sum()):
            raise ValueError(
                f"{pixel_values.shape[0]} patches, grid_hw of {patches}, and {int(visual.sum())} visual tokens: "
                "a visual token has four patches"
            )
        features = self.get_image_features(pixel_values, grid_hw)
        return x.masked_scatter(visual[..., None].to(x.device), features.to(x.device, x.dtype))

    def _positions_and_mask(
        self,
        visual: Tensor,
        grid_hw: Tensor | None,
        position_ids: Tensor | None,
        attention_mask: Tensor | None,
        past: int,
        cache: Cache | None,
    ) -> tuple[Tensor, Tensor]:
        """What of both is not given whole, behind a cache of `past` tokens."""
        own = attention_mask if attention_mask is not None and attention_mask.ndim != 2 else None
        if position_ids is None and (past or own is not None):
            raise ValueError(
                "position_ids [3, B, L] are needed behind a cache, since an image in it counts as one step, and with a "
                "mask of one's own"
            )
        positions, units = positions_and_units(visual, grid_hw, attention_mask if position_ids is None else None)
        if own is None:
            own = mixed_mask(units, attention_mask, past, keys_of(cache, past + visual.shape[1]))
        return positions if position_ids is None else position_ids, own

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        grid_hw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        cache_position: Tensor | None = None,
        use_cache: bool = True,
        labels: Tensor | None = None,
        loss_weights: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        logits_to_keep: int | Tensor = 0,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = True,
    ) -> CausalLMOutputWithPast | tuple[Any, ...]:
        """Logits, and the loss where there are labels.

        Args:
            input_ids: [B, L] int64.
            attention_mask: [B, tokens in the cache + L], 0 where there is padding, on either side; or a mask
                [B, 1, L, keys] bool of what each token sees.
            position_ids: [3, B, L] int64 (t, h, w). None computes them; tokens behind a cache need them, since an image
                in it counts as one step.
            pixel_values: [P, 768] patches (channel, row, column), those of row 0 first: uint8, as the processor gives
                them, or already normalised floats.
            grid_hw: [n, 2] int64, rows and columns of each image or frame in patches, in the same order.
            mm_token_type_ids: [B, L], above 0 for visual tokens. None: those that are `config.img_context_token_id`
                where there are pixels, and no token where there are none.
            inputs_embeds: [B, L, hidden], in place of the embeddings of `input_ids`.
            cache: keys and values of earlier tokens; `past_key_values` until transformers 5.23.
            cache_position: [L], places of the tokens in the cache; None puts them behind what is there.
            use_cache: give a cache back, a new one where none came. Not while gradients are checkpointed.
            labels: [B, L] int64, -100 where no loss is taken; token i + 1 is what token i shall predict.
            loss_weights: [B, L] float, weight of each label: loss = sum(w l) / sum(w). None: 1 each.
            num_items_in_batch: divides in place of sum(w): the labels of the whole optimiser step.
            logits_to_keep: logits of the last so many tokens (0: of all); or of these places, [k] or each row's [B, k].
            output_attentions, output_hidden_states: as everywhere; attentions need the "eager" implementation.
            return_dict: False gives a tuple.

        Raises:
            ValueError: arguments that do not fit each other; says which.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds")
        if labels is not None and not (isinstance(logits_to_keep, int) and logits_to_keep == 0):
            raise ValueError("a loss needs all logits: leave logits_to_keep out where there are labels")
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError("attentions are given by attn_implementation='eager' alone")
        cache = past_key_values if cache is None else cache
        if self.training and self.is_gradient_checkpointing and torch.is_grad_enabled():
            cache, use_cache = None, False
        if use_cache and cache is None:
            cache = DynamicCache(config=self.config.get_text_config())

        x = self.get_input_embeddings()(input_ids) if inputs_embeds is None else inputs_embeds
        visual = self.visual_tokens(input_ids, x, pixel_values, mm_token_type_ids)
        if pixel_values is not None:
            x = self._with_pixels(x, visual, pixel_values, grid_hw)
        if cache_position is None:
            past = 0 if cache is None else int(cache.get_seq_length())
            cache_position = torch.arange(past, past + x.shape[1], device=x.device)
        if position_ids is None or attention_mask is None or attention_mask.ndim == 2:
            position_ids, attention_mask = self._positions_and_mask(
                visual, grid_hw, position_ids, attention_mask, int(cache_position[0]), cache
            )
        if position_ids.shape != (3, *x.shape[:2]):
            raise ValueError(f"position_ids must be [3, B, L] = {[3, *x.shape[:2]]}, found {list(position_ids.shape)}")

        config, (t, h, w) = self.config.llm_config, position_ids
        turns = (
            rotary(t, config.head_dim, config.rope_theta),
            rotary(h, config.head_dim // 2, config.rope_theta_hw),
            rotary(w, config.head_dim // 2, config.rope_theta_hw),
        )
        states, attentions = [x], []
        for layer in self.language_model.model.layers:
            x, weights = layer(
                x,
                position_embeddings=turns,
                attention_mask=attention_mask,
                implementation=self.config._attn_implementation,
                cache=cache,
                cache_position=cache_position,
            )
            states.append(x)
            attentions.append(weights)
        x = states[-1] = self.language_model.model.norm(x)
        logits = self.language_model.lm_head(kept(x, logits_to_keep))
        loss = None
        if labels is not None:
            loss = weighted_loss(logits, labels, loss_weights, num_items_in_batch)
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            **{_CACHE: cache if use_cache else None},
        )
        return output.to_tuple() if return_dict is False else output


def kept(x: Tensor, places: int | Tensor) -> Tensor:
    """[B, L, hidden] -> [B, k, hidden], see `logits_to_keep` of `NEOChatModel.forward`."""
    if isinstance(places, int):
        return x[:, -places:]
    return x[:, places] if places.ndim == 1 else x.take_along_dim(places[..., None].to(x.device), 1)


def weighted_loss(
    logits: Tensor, labels: Tensor, weights: Tensor | None, num_items_in_batch: Tensor | int | None
) -> Tensor:
    """Cross-entropy of the next tokens in float32, see `NEOChatModel.forward`; logits [B, L, V] -> scalar."""
    targets = labels[:, 1:].to(logits.device)
    places = targets != -100
    nll = F.cross_entropy(logits[:, :-1][places].float(), targets[places], reduction="none")
    each = torch.ones_like(nll) if weights is None else weights[:, 1:].to(nll)[places]
    return (each * nll).sum() / (each.sum() if num_items_in_batch is None else num_items_in_batch)


__all__ = ["NEOChatModel"]
