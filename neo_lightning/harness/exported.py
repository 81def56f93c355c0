"""A model folder, or an id of the hub, that answers batches of conversations: what every harness asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from .. import hf  # noqa: F401 - registers NEO, for folders that carry no code of their own

Conversation = list[dict[str, Any]]
"""Messages as chat templates take them: `role`, and `content` as a list of text, image and video parts."""


class Exported:
    """A model with its processor."""

    def __init__(
        self,
        source: str,
        *,
        device: str | None = None,
        dtype: str | torch.dtype = "auto",
        quantization_config: Any = None,
    ) -> None:
        """
        Args:
            source: folder or id.
            device: None takes the GPU where there is one.
            dtype: name of one of torch's; `auto` takes bfloat16 on a GPU and float32 on a CPU.
            quantization_config: one of transformers'; the weights are made smaller when they are loaded.

        Raises:
            ValueError: there is no such dtype.
        """
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if dtype == "auto":
            dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
        found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
        if not isinstance(found, torch.dtype):
            raise ValueError(f"dtype: torch has none of the name {dtype!r}")
        self.processor = AutoProcessor.from_pretrained(source)
        options = {"dtype": found, "quantization_config": quantization_config}
        self.model = AutoModelForImageTextToText.from_pretrained(source, **options).to(place).eval()

    def answer(
        self,
        conversations: Sequence[Conversation],
        *,
        decoding: Mapping[str, Any],
        images: Mapping[str, int] | None = None,
        videos: Mapping[str, Any] | None = None,
    ) -> list[tuple[str, int]]:
        """The answer to each conversation, and its tokens.

        Args:
            conversations: of any lengths; they go through the model together. A video part may have a `section`
                (start, end) in seconds, all that is shown of its clip.
            decoding: arguments of `generate`.
            images, videos: budgets (`min_pixels`, `max_pixels`; `fps`, `max_frames`) in place of the folder's.
        """
        parts = (part for turns in conversations for turn in turns for part in turn["content"])
        cuts = [{"section": part.get("section")} for part in parts if part["type"] == "video"]
        inputs = self.processor.apply_chat_template(
            list(conversations),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            images_kwargs=dict(images or {}),
            videos_kwargs={**(videos or {}), "video_metadata": cuts},
        ).to(self.model.device)
        with torch.no_grad():
            found = self.model.generate(**inputs, **decoding)
        rows = found[:, inputs["input_ids"].shape[1] :]
        pad = self.model.generation_config.pad_token_id
        counts = (rows != pad).sum(1).tolist()
        texts = self.processor.batch_decode(rows, skip_special_tokens=True)
        return [(text.strip(), count) for text, count in zip(texts, counts, strict=True)]


def enlarged(image: str | Image.Image, factor: int) -> Image.Image:
    """A picture with its sides times `factor`, bilinear as the authors do it."""
    picture = image if isinstance(image, Image.Image) else Image.open(image)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.BILINEAR)
