"""Images for NEO: pictures in any form -> patches of uint8, and how many there are.

Each is resized to multiples of 32 pixels inside a budget of area. Pixels stay uint8; the model normalises them. Hand
over paths or bytes where there are any: they give exactly the training's pixels (see `pictures_neo_chat`).
"""

from typing import Any

import torch
from transformers.configuration_utils import PretrainedConfig
from transformers.image_processing_utils import BaseImageProcessor, BatchFeature
from transformers.processing_utils import ImagesKwargs

from .pictures_neo_chat import PATCH, PATCH_BYTES, load_picture, patchify, smart_resize


class NEOChatImagesKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """What a call may say of its images."""

    min_pixels: int | None
    max_pixels: int | None


class NEOChatImageProcessor(BaseImageProcessor):
    """Pictures to `pixel_values` [patches, 768] uint8 and `grid_hw` [pictures, 2] int64 (rows and columns of patches).

    Args:
        min_pixels: area to which a smaller picture is enlarged.
        max_pixels: area to which a larger one is reduced. Of the n > 1 pictures of one conversation each gets
            `2 * max_pixels // n`, but no less than `min_pixels`.
    """

    valid_kwargs = NEOChatImagesKwargs
    model_input_names = ["pixel_values", "grid_hw"]  # noqa: RUF012

    def __init__(self, min_pixels: int = 256 * 256, max_pixels: int = 2048 * 2048, **kwargs: Any) -> None:
        super().__init__(min_pixels=min_pixels, max_pixels=max_pixels, **kwargs)
        if not 0 < min_pixels <= max_pixels:
            raise ValueError(f"need 0 < min_pixels <= max_pixels, found {min_pixels} and {max_pixels}")

    @classmethod
    def get_image_processor_dict(cls, source: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Settings of a model folder; a released one has them in `vision_config` of its config.json."""
        try:
            found, rest = super().get_image_processor_dict(source, **kwargs)
        except OSError:
            found, rest = {}, kwargs
        if missing := {"min_pixels", "max_pixels"} - found.keys():
            vision = PretrainedConfig.get_config_dict(source, **kwargs)[0].get("vision_config") or {}
            found = found | {name: vision[name] for name in missing & vision.keys()}
        return found, rest

    def fitted_size(
        self, height: int, width: int, count: int = 1, *, min_pixels: int | None = None, max_pixels: int | None = None
    ) -> tuple[int, int]:
        """Size (height, width) in pixels at which one of a conversation's `count` pictures is shown."""
        least, most = min_pixels or self.min_pixels, max_pixels or self.max_pixels
        return smart_resize(height, width, least, max(2 * most // count, least) if count > 1 else most)

    def preprocess(
        self,
        images: Any,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """One picture, or the pictures of one conversation: each a path, address, bytes, PIL image or array of uint8.

        Raises:
            ValueError: a picture cannot be used; names it.
        """
        found = [load_picture(image) for image in ([images] if is_picture(images) else images)]
        patches, grids = [], []
        for picture in found:
            height, width = self.fitted_size(
                picture.height, picture.width, len(found), min_pixels=min_pixels, max_pixels=max_pixels
            )
            patches.append(patchify(picture.pixels(height, width)))
            grids.append([height // PATCH, width // PATCH])
        data = {
            "pixel_values": torch.cat(patches) if patches else torch.empty(0, PATCH_BYTES, dtype=torch.uint8),
            "grid_hw": torch.tensor(grids, dtype=torch.int64).reshape(-1, 2),
        }
        return BatchFeature(data, tensor_type=return_tensors)


def is_picture(value: Any) -> bool:
    """Whether it is one, and not a list of them."""
    return not isinstance(value, list | tuple)


__all__ = ["NEOChatImageProcessor"]
