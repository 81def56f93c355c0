"""Generation with NEO: what `generate` hands from step to step, and `chat` as the authors' code has it.

Positions are [3, B, L]. A new token takes the next t, and its h and w are 0 whatever stands in front of it. Pixels go
through the model once, with the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin

from .positions_neo_chat import MERGE, keys_of, last_tokens, mixed_mask, positions_and_units
from .prompt_text_neo_chat import PromptText

_PIXELS = ("pixel_values", "grid_hw")
_IMAGE = "<image>"
"""Where an image belongs in what `chat` is asked."""


class NEOChatGenerationMixin(GenerationMixin):
    """The hooks of `GenerationMixin` that NEO needs otherwise, and `chat`."""

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Runs once, before the first step: positions of the whole prompt, and every row `expand_size` times."""
        pixels = {name: model_kwargs.pop(name, None) for name in _PIXELS}
        attention_mask, position_ids = model_kwargs.get("attention_mask"), model_kwargs.pop("position_ids", None)
        visual = self.visual_tokens(input_ids, input_ids, pixels["pixel_values"], model_kwargs.get("mm_token_type_ids"))
        if position_ids is None or position_ids.ndim != 3:  # generate makes [B, L] of its own
            position_ids, _ = positions_and_units(visual, pixels["grid_hw"], attention_mask)
        model_kwargs["mm_token_type_ids"] = visual.long()
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        if pixels["pixel_values"] is not None and expand_size > 1:
            pixels = _repeat_images(pixels["pixel_values"], pixels["grid_hw"], visual, expand_size)
        model_kwargs["position_ids"] = position_ids.repeat_interleave(expand_size, dim=1)
        return input_ids, model_kwargs | pixels

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        attention_mask: Tensor | None = None,
        cache_position: Tensor | None = None,
        is_first_iteration: bool = False,
        *,
        position_ids: Tensor,
        mm_token_type_ids: Tensor,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The arguments of `forward` for one step: those of the tokens that are not in the cache yet.

        Raises:
            ValueError: the cache ends in front of images, which it should hold.
        """
        cache = past_key_values if cache is None else cache
        if next_sequence_length is None and cache_position is not None:  # until transformers 5.1
            next_sequence_length = cache_position.shape[0]
        length = input_ids.shape[1] if next_sequence_length is None else next_sequence_length
        past = 0 if cache is None else int(cache.get_seq_length())
        visual = mm_token_type_ids[:, -length:] > 0
        pixels = {name: kwargs.pop(name, None) for name in _PIXELS}
        if past and pixels["pixel_values"] is not None:
            if visual.any():
                raise ValueError("the cache ends in front of an image of the prompt: begin with an empty one")
            pixels = dict.fromkeys(_PIXELS)
        _, units = positions_and_units(visual, pixels["grid_hw"], None)
        if attention_mask is not None and kwargs.get("logits_to_keep") == 1:  # behind padding on the right
            kwargs["logits_to_keep"] = last_tokens(attention_mask[:, -length:])
        return {
            **{name: value for name, value in kwargs.items() if name != "labels"},
            **pixels,
            "input_ids": input_ids[:, -length:].contiguous(),
            "position_ids": position_ids[..., -length:],
            "attention_mask": mixed_mask(units, attention_mask, past, keys_of(cache, past + length)),
            "cache": cache,
            "cache_position": torch.arange(past, past + length, device=input_ids.device),
            "mm_token_type_ids": visual.long(),
        }

    def _update_model_kwargs_for_generation(
        self,
        outputs: Any,
        model_kwargs: dict[str, Any],
        is_encoder_decoder: bool = False,
        num_new_tokens: int = 1,
    ) -> dict[str, Any]:
        """Behind each step: its new tokens are text."""
        position_ids, kinds = model_kwargs.pop("position_ids"), model_kwargs.pop("mm_token_type_ids")
        model_kwargs = super()._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder, num_new_tokens
        )
        new = torch.zeros_like(position_ids[..., -1:]).expand(-1, -1, num_new_tokens).clone()
        new[0] = position_ids[0, :, -1:] + 1 + torch.arange(num_new_tokens, device=new.device)
        model_kwargs["position_ids"] = torch.cat([position_ids, new], dim=-1)
        model_kwargs["mm_token_type_ids"] = torch.cat([kinds, torch.zeros_like(new[0])], dim=-1)
        return model_kwargs

    @torch.no_grad()
    def chat(
        self,
        tokenizer: Any,
        pixel_values: Tensor | None,
        question: str,
        generation_config: Mapping[str, Any],
        history: list[tuple[str, str]] | None = None,
        return_history: bool = False,
        grid_hw: Tensor | None = None,
        verbose: bool = False,
    ) -> str | tuple[str, list[tuple[str, str]]]:
        """One turn, with the arguments of the authors' code, which evaluation harnesses call.

        `self.system_message` stands in front, where there is one.

        Args:
            tokenizer: the model's own.
            pixel_values, grid_hw: see `forward`; of all images of history and question, or None.
            question: `<image>` where an image belongs; the only image of a first question may go without.
            generation_config: arguments of `generate`.
            history: (question, answer) of the turns before.
            return_history: return the history with this turn as well.
            verbose: print prompt and answer.

        Raises:
            ValueError: there are more images than `<image>`.
        """
        if history is None and pixel_values is not None and _IMAGE not in question:
            question = f"{_IMAGE}\n{question}"
        text, system = PromptText(tokenizer, (_IMAGE,)), self.system_message
        turns = [("system", system)] if system else []
        for asked, answered in history or []:
            turns += [("user", asked), ("assistant", answered)]
        grids = iter([] if grid_hw is None else grid_hw.tolist())
        prompt = ""
        for role, said in (*turns, ("user", question)):
            *before, last = said.split(_IMAGE) if role == "user" else [said]
            prompt += f"<|im_start|>{role}\n"
            for piece in before:
                grid = next(grids, None)
                prompt += text.escape(piece) + (text.escape(_IMAGE) if grid is None else _unit(grid))
            prompt += text.escape(last, answer=role == "assistant") + "<|im_end|>\n"
        if left := len(list(grids)):
            raise ValueError(f"{left} images more than there are {_IMAGE} in question and history")
        input_ids = torch.tensor(text.encode([f"{prompt}<|im_start|>assistant\n"]), device=self.device)
        context, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<IMG_CONTEXT>", "<|im_end|>"))
        found = self.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            pixel_values=None if pixel_values is None else pixel_values.to(self.device),
            grid_hw=grid_hw,
            mm_token_type_ids=(input_ids == context).long(),
            **{"pad_token_id": end, **generation_config, "eos_token_id": end},
        )
        answer = tokenizer.decode(found[0, input_ids.shape[1] :], skip_special_tokens=True).strip()
        if verbose:
            print(re.sub("<img>(<IMG_CONTEXT>)*</img>", _IMAGE, prompt), answer)
        return (answer, [*(history or []), (question, answer)]) if return_history else answer


def _unit(grid: list[int]) -> str:
    return f"<img>{'<IMG_CONTEXT>' * (grid[0] * grid[1] // MERGE**2)}</img>"


def _repeat_images(pixel_values: Tensor, grid_hw: Tensor, visual: Tensor, times: int) -> dict[str, Tensor]:
    """The images of row 0 `times`, then those of row 1, and so on; visual is [B, L]."""
    patches = visual.sum(1) * MERGE**2
    ends = grid_hw.to(visual.device).prod(1).cumsum(0)
    images = torch.searchsorted(ends, patches.cumsum(0), right=True).diff(prepend=ends.new_zeros(1))
    return {
        name: torch.cat([part for row in value.split(sizes.tolist()) for part in [row] * times])
        for name, value, sizes in (("pixel_values", pixel_values, patches), ("grid_hw", grid_hw, images))
    }
