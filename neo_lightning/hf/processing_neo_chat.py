"""Text, images and clips for NEO: messages or rendered prompts -> `input_ids`, `pixel_values` and `grid_hw`.

    messages --chat template--> prompts with a placeholder for each medium --media in their places--> ids and patches

A placeholder is `<IMG_CONTEXT>` for an image and `<VIDEO_CONTEXT>` for a clip. In their places stand

    image    <img> <IMG_CONTEXT>... </img>
    clip     a sentence on the clip; then for each frame   [MM:SS.ss]: <img> <IMG_CONTEXT>... </img> line feed

Ids and pixels, and so positions, equal those of the training bit for bit. In messages nobody's text can spell a token
or a placeholder (see `prompt_text_neo_chat`); a rendered prompt is taken at its word.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer
from transformers.image_processing_utils import BatchFeature
from transformers.processing_utils import MultiModalData, ProcessingKwargs, ProcessorMixin

from .clips_neo_chat import FRAME_LABEL, PREFIX, is_clip, words_of_clip
from .image_processing_neo_chat import NEOChatImageProcessor, NEOChatImagesKwargs, is_picture
from .media_neo_chat import MERGED, Medium, clips_of, images_of, of_prompts, shown_types
from .messages_neo_chat import take_media
from .pictures_neo_chat import PATCH, TOKEN
from .prompt_text_neo_chat import BREAK, MARKS, PromptText
from .video_processing_neo_chat import NEOChatVideoProcessor, NEOChatVideosKwargs

_SUPPORTED = ("padding", "padding_side", "max_length", "pad_to_multiple_of", "return_tensors", "add_special_tokens")


class NEOChatProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """What a call may say, by modality."""

    images_kwargs: NEOChatImagesKwargs
    videos_kwargs: NEOChatVideosKwargs
    _defaults = {}  # type: ignore  # noqa: RUF012  transformers 5.0 looks for it


class NEOChatProcessor(ProcessorMixin):
    """Everything that a NEO model takes.

    Args:
        chat_template: None takes the one that models are trained with.
        video_prefix: sentence in front of a clip; `{end}`, `{frames}` and `{fps}` are filled in.
        frame_label: text in front of each frame; `{time}` is filled in.
    """

    valid_processor_kwargs = NEOChatProcessorKwargs
    image_token = "<IMG_CONTEXT>"
    video_token = "<VIDEO_CONTEXT>"
    model_input_names = ["input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "grid_hw"]  # noqa: RUF012

    def __init__(
        self,
        image_processor: NEOChatImageProcessor,
        tokenizer: Any,
        video_processor: NEOChatVideoProcessor,
        chat_template: Any = None,
        video_prefix: str = PREFIX,
        frame_label: str = FRAME_LABEL,
    ) -> None:
        if chat_template is None:  # a released folder has none that knows media
            own = Path(__file__).with_name("chat_template.jinja")
            chat_template = own.read_text(encoding="utf-8") if own.is_file() else tokenizer.chat_template
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template)
        self.video_prefix, self.frame_label = video_prefix, frame_label
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self._text: PromptText | None = None

    @classmethod
    def _get_arguments_from_pretrained(cls, source: Any, *_: Any, **kwargs: Any) -> list[Any]:
        """Without the Auto classes, since a released folder has no files of processors; its config.json suffices."""
        image_processor = NEOChatImageProcessor.from_pretrained(source, **kwargs)
        video_processor = NEOChatVideoProcessor.from_pretrained(source, **kwargs)
        return [image_processor, AutoTokenizer.from_pretrained(source, **kwargs), video_processor]

    @property
    def prompt_text(self) -> PromptText:
        """Text and ids of the tokenizer as it is now."""
        if self._text is None or self._text.tokens != self.tokenizer.get_added_vocab():
            self._text = PromptText(self.tokenizer, (self.image_token, self.video_token))
        return self._text

    # ---- messages

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tools: list[Any] | None = None,
        tokenize: bool = False,
        return_dict: bool = False,
        return_tensors: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        sanitize_control_tokens: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Messages, or a list of conversations, as prompts.

        Args:
            conversation: messages with `role` and `content`, which is text or a list of parts: text, or
                `{"type": "image" | "video", ...}` with a path, address, picture, ... under its type, `path` or `url`.
            tools: their JSON schemas, or functions.
            tokenize: return the ids, or with `return_dict` all that the model takes; else the rendered text.
            processor_kwargs: see `__call__`; they may also stand among `kwargs`.
            sanitize_control_tokens: of no effect, since text is always text.
            kwargs: of transformers (`add_generation_prompt`, `continue_final_message`), and the template's own.

        Raises:
            ValueError: a message or medium that cannot be used; names it.
        """
        if kwargs.pop("return_assistant_tokens_mask", False):
            raise ValueError("return_assistant_tokens_mask: this processor does not tell which tokens are an answer's")
        sections = NEOChatProcessorKwargs.__annotations__
        known = {name for section in sections.values() for name in getattr(section, "__annotations__", ())} | {
            *sections
        }
        said = {name: kwargs.pop(name) for name in list(kwargs) if name in known} | dict(processor_kwargs or {})
        batched = isinstance(conversation[0], list | tuple)
        taken = [take_media(messages) for messages in (conversation if batched else [conversation])]
        escape = self.prompt_text.escape
        prompts = super().apply_chat_template(
            [[escape(turn, answer=turn["role"] == "assistant") for turn in turns] for turns, _, _ in taken],
            chat_template,
            tools=escape(tools),
            tokenize=False,
            **kwargs,
        )
        if not tokenize:
            return prompts if batched else prompts[0]
        if return_tensors not in (None, "auto"):
            said["return_tensors"] = return_tensors
        images, videos = [images for _, images, _ in taken], [videos for _, _, videos in taken]
        found = self(text=prompts, images=images, videos=videos, **said)
        return found if return_dict else found["input_ids"]

    # ---- prompts

    def __call__(  # type: ignore[override]
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> BatchFeature:
        """Rendered prompts with their media, as a model takes them.

        Args:
            images: in any form (see `NEOChatImageProcessor`): one, a list for all prompts in order, or a list for each.
            text: a prompt or several, with a placeholder for each medium.
            videos: likewise (see `NEOChatVideoProcessor`).
            kwargs: `images_kwargs`, `videos_kwargs` (`min_pixels`, `max_pixels`; `fps`, `num_frames`, ...), `padding`,
                `padding_side`, `max_length`, `pad_to_multiple_of`, `return_tensors`, `return_metadata`,
                `return_mm_token_type_ids` (default True). Nothing is cut off: `truncation` is refused.

        Returns:
            input_ids, attention_mask and mm_token_type_ids (1: image, 2: clip) [prompts, L]; with media pixel_values
            [patches, 768] uint8 and grid_hw [images and frames, 2] in patches, in reading order.

        Raises:
            ValueError: placeholders and media do not come out even, or a medium cannot be used.
        """
        if text is None or audio is not None:
            raise ValueError("this processor needs `text`, and takes no `audio`")
        prompts = [text] if isinstance(text, str) else list(text)
        with_types = kwargs.pop("return_mm_token_type_ids", True)
        settings = self._settings(kwargs)
        words = settings["text_kwargs"]
        if refused := [name for name, value in words.items() if value and name not in _SUPPORTED]:
            raise ValueError(f"this processor does not take {', '.join(refused)}")
        media = list(self._media(prompts, images, videos, settings))
        rows = self.prompt_text.encode([self._filled(prompt, own) for prompt, own in zip(prompts, media, strict=True)])
        data = dict(self._padded(rows, words))
        if with_types:
            data["mm_token_type_ids"] = [
                shown_types(row, self.image_token_id, own) for row, own in zip(data["input_ids"], media, strict=True)
            ]
        shown = [medium for own in media for medium in own]
        if shown:
            data["pixel_values"] = torch.cat([medium.patches for medium in shown])
            data["grid_hw"] = torch.cat([medium.grids for medium in shown])
        found = BatchFeature(data, tensor_type=words.get("return_tensors"))
        if settings["videos_kwargs"].get("return_metadata"):
            found["video_metadata"] = [medium.metadata for medium in shown if medium.metadata is not None]
        return found

    def replace_image_token(self, image_inputs: Mapping[str, Any], image_idx: int, **_: Any) -> str:
        """What stands in the place of an image, of which the image processor gave `image_inputs`."""
        return self._unit(image_inputs["grid_hw"][image_idx])

    def replace_video_token(self, video_inputs: Mapping[str, Any], video_idx: int, **_: Any) -> str:
        """What stands in the place of a clip, of which the video processor gave `video_inputs` with their metadata."""
        clips = video_inputs["video_metadata"]
        clip = clips[video_idx]
        frame = self._unit(video_inputs["grid_hw"][sum(len(other.moments) for other in clips[:video_idx])])
        sentence, *labels = words_of_clip(clip.moments, clip.duration, self.video_prefix, self.frame_label)
        escape = self.prompt_text.escape
        return BREAK + BREAK.join([escape(sentence), *(f"{escape(label)}{frame}\n" for label in labels)]) + BREAK

    def _settings(self, kwargs: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        return self._merge_kwargs(NEOChatProcessorKwargs, self.tokenizer.init_kwargs, **kwargs)

    def _unit(self, grid: Tensor) -> str:
        return f"<img>{self.image_token * (int(grid.prod()) // MERGED)}</img>"

    def _media(
        self, prompts: list[str], images: Any, videos: Any, settings: Mapping[str, Any]
    ) -> Iterator[list[Medium]]:
        """The media of each prompt, in reading order."""
        of_images, of_videos = ({**settings[f"{name}_kwargs"], "return_tensors": None} for name in ("images", "videos"))
        of_videos["return_metadata"] = True
        places = {token: [prompt.count(token) for prompt in prompts] for token in (self.image_token, self.video_token)}
        pictures = of_prompts(images, places[self.image_token], "image", is_picture)
        clips = of_prompts(videos, places[self.video_token], "video", is_clip)
        known = of_videos.pop("video_metadata", None) or [None] * sum(map(len, clips))
        told = of_prompts(known, [len(own) for own in clips], "video_metadata", is_picture)
        for prompt, own_pictures, own_clips, own_told in zip(prompts, pictures, clips, told, strict=True):
            seen = self.image_processor(own_pictures, **of_images)
            watched = self.video_processor(own_clips, video_metadata=own_told, **of_videos)
            waiting = {
                self.image_token: images_of(seen, self.replace_image_token),
                self.video_token: clips_of(watched, self.replace_video_token),
            }
            yield [next(waiting[place]) for place in re.findall(f"{self.image_token}|{self.video_token}", prompt)]

    def _filled(self, prompt: str, media: list[Medium]) -> str:
        waiting = iter(media)
        return re.sub(f"{self.image_token}|{self.video_token}", lambda _: next(waiting).text, prompt)

    def _padded(self, rows: list[list[int]], words: Mapping[str, Any]) -> Mapping[str, Any]:
        # it would advise to call the tokenizer itself, which knows no places of media
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        how = {name: words[name] for name in ("max_length", "pad_to_multiple_of", "padding_side") if name in words}
        return self.tokenizer.pad({"input_ids": rows}, padding=words.get("padding", False), **how)

    # ---- answers

    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> Any:  # type: ignore[override]
        """The text of ids, or the texts of several rows. Tokens of control are skipped, those of answers never."""
        ids = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        if isinstance(ids, list | tuple) and ids and not isinstance(ids[0], int):
            return [self.decode(row, skip_special_tokens, **kwargs) for row in ids]
        if skip_special_tokens:
            added = self.tokenizer.added_tokens_decoder
            hidden = {number for number, token in added.items() if token.special and token.content not in MARKS}
            ids = [number for number in ([ids] if isinstance(ids, int) else ids) if number not in hidden]
        return self.tokenizer.decode(ids, skip_special_tokens=False, **kwargs)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **kwargs: Any) -> list[str]:  # type: ignore[override]
        """The texts of rows of ids; see `decode`."""
        return [self.decode(row, skip_special_tokens, **kwargs) for row in sequences]

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> list[str]:
        """The texts of rows of ids; what a pipeline calls."""
        return self.batch_decode(generated_outputs, skip_special_tokens, **kwargs)

    # ---- sizes

    def _get_num_multimodal_tokens(
        self, image_sizes: list[Any] | None = None, video_sizes: list[Any] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """How many tokens and patches images of (height, width) and clips of (frames, height, width) take; for vLLM."""
        settings = self._settings(kwargs)
        found: dict[str, list[int]] = {}
        if image_sizes is not None:
            sizes = [self.image_processor.fitted_size(*size, **settings["images_kwargs"]) for size in image_sizes]
            found["num_image_patches"] = [height * width // PATCH**2 for height, width in sizes]
            found["num_image_tokens"] = [count // MERGED for count in found["num_image_patches"]]
        if video_sizes is not None:
            sizes = [self.video_processor.fitted_size(*size, **settings["videos_kwargs"]) for _, *size in video_sizes]
            found["num_video_tokens"] = [
                frames * height * width // TOKEN**2
                for (frames, *_), (height, width) in zip(video_sizes, sizes, strict=True)
            ]
        return MultiModalData(**found)


__all__ = ["NEOChatProcessor"]
