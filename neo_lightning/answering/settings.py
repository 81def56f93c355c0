"""How a model is asked and how it answers: pixel budgets, frames, the words around them, decoding; and their files.

    config.json               vision_config.min_pixels, max_pixels: the image budget, where released readers look
    processor_config.json     image_processor: the image budget, which counts where it differs; video_processor: frames
                              and their pixel budget; video_prefix, frame_label; and who reads it in transformers
    generation_config.json    how the next token is chosen
    chat_template.jinja       the turns, for readers that render a template

A folder without the last three was released by others and keeps the defaults: one frame a second, up to 128 frames of
4 x 32^2 to 360 x 640 pixels (the authors' evaluation), and the likeliest token.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..checkpoint.read import read_json
from ..data.text.tokenizer import Tokenizer
from ..model.config import NeoConfig
from ..model.sampling import Sampling
from ..types import PixelBudget, Stage, VideoBudget

PROCESSOR = "processor_config.json"
GENERATION = "generation_config.json"
TEMPLATE = "chat_template.jinja"
CHAT_TEMPLATE = Path(__file__).parents[1] / "hf" / TEMPLATE
"""Read by its path: `hf` is written for those who do not have this package."""

_IN_PROCESSOR = {"prefix": "video_prefix", "frame_label": "frame_label"}
"""Texts of a `VideoBudget` that stand beside `video_processor`, which has its numbers."""


@dataclass(frozen=True, kw_only=True)
class Answering:
    """How a model is asked and how it answers."""

    image: PixelBudget = field(default_factory=PixelBudget)
    video: VideoBudget = field(default_factory=VideoBudget)
    sampling: Sampling = field(default_factory=Sampling)
    """How the next token is chosen, where a question does not say otherwise."""
    max_new_tokens: int = 512
    """Most tokens of an answer, likewise."""

    @classmethod
    def of_stage(cls, stage: Stage) -> Answering:
        """As a stage of the training shows its samples; the likeliest token."""
        return cls(image=stage.image, video=stage.video)

    @classmethod
    def of_config(cls, config: NeoConfig) -> Answering:
        """The defaults of a model that nobody has trained here."""
        return cls(image=PixelBudget(min_pixels=config.min_pixels, max_pixels=config.max_pixels))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Answering:
        """Inverse of `dataclasses.asdict`."""
        kinds = {"image": PixelBudget, "video": VideoBudget, "sampling": Sampling}
        return cls(**{name: kinds[name](**value) if name in kinds else value for name, value in values.items()})

    @classmethod
    def read(cls, folder: Path, config: NeoConfig) -> Answering:
        """What a model folder says.

        Raises:
            ValueError: a file cannot be read or a value is out of bounds; names file and key.
        """
        try:
            found = cls.of_config(config)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{folder / 'config.json'}, vision_config: {error}") from error
        if (file := folder / PROCESSOR).is_file():
            tree = read_json(file)
            found = replace(found, image=_image(tree, file, found.image), video=_video(tree, file))
        if (file := folder / GENERATION).is_file():
            found = replace(found, **_decoding(read_json(file), file))
        return found

    def files(self, tokenizer: Tokenizer) -> dict[str, str]:
        """Name -> text of the folder's files, without config.json."""
        video = asdict(self.video)
        texts = {ours: video.pop(name) for name, ours in _IN_PROCESSOR.items()}
        processor = {
            "processor_class": "NEOChatProcessor",
            "auto_map": {"AutoProcessor": "processing_neo_chat.NEOChatProcessor"},
            "image_processor": {**_reader("Image"), **asdict(self.image)},
            "video_processor": {**_reader("Video"), **video},
            **texts,
        }
        generation = {
            "do_sample": self.sampling.temperature > 0,
            **(asdict(self.sampling) if self.sampling.temperature > 0 else {}),
            "repetition_penalty": self.sampling.repetition_penalty,
            "max_new_tokens": self.max_new_tokens,
            "eos_token_id": [tokenizer.im_end_id, tokenizer.pad_id],
            "pad_token_id": tokenizer.pad_id,
        }
        return {
            PROCESSOR: json.dumps(processor, indent=2) + "\n",
            GENERATION: json.dumps(generation, indent=2) + "\n",
            TEMPLATE: CHAT_TEMPLATE.read_text(encoding="utf-8"),
        }

    def changed(
        self,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
    ) -> Answering:
        """With other budgets: `min_pixels` and `max_pixels` of an image, `fps` (0: spread evenly) and `max_frames`.

        A bound that alone would cross the other one takes it along.

        Raises:
            ValueError: a value is out of bounds.
        """
        image, video = self.image, self.video
        for name, value in (("min_pixels", min_pixels), ("max_pixels", max_pixels)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise ValueError(f"image: {name} must be of type int, found {value!r}")
        if min_pixels is not None or max_pixels is not None:
            least = min(image.min_pixels, max_pixels or image.min_pixels) if min_pixels is None else min_pixels
            most = max(image.max_pixels, least) if max_pixels is None else max_pixels
            image = PixelBudget(min_pixels=least, max_pixels=most)
        changes = {"fps": fps or None} if fps is not None else {}
        changes |= {"max_frames": max_frames} if max_frames is not None else {}
        video = built(VideoBudget, asdict(video) | changes, "video")
        return replace(self, image=image, video=video)

    def differences(self, other: Answering) -> list[str]:
        """`image.max_pixels: 4194304 -> 16384` for each value that the other has otherwise."""
        mine, theirs = _flat(self), _flat(other)
        return [f"{name}: {mine[name]} -> {theirs[name]}" for name in mine if mine[name] != theirs[name]]


def _flat(answering: Answering) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in asdict(answering).items():
        found |= {f"{name}.{key}": below for key, below in value.items()} if isinstance(value, dict) else {name: value}
    return found


def _reader(kind: str) -> dict[str, Any]:
    """Which class of `hf` reads a section in transformers, and in which of the export's files it is."""
    section, name = f"{kind.lower()}_processor", f"NEOChat{kind}Processor"
    code = f"{kind.lower()}_processing_neo_chat.{name}"
    return {f"{section}_type": name, "auto_map": {f"Auto{kind}Processor": code}}


def _image(tree: Mapping[str, Any], file: Path, otherwise: PixelBudget) -> PixelBudget:
    return built(PixelBudget, asdict(otherwise) | _section(tree, "image_processor", PixelBudget, file), file)


def _video(tree: Mapping[str, Any], file: Path) -> VideoBudget:
    values = _section(tree, "video_processor", VideoBudget, file)
    values = {name: value for name, value in values.items() if name not in _IN_PROCESSOR}
    values |= {name: tree[theirs] for name, theirs in _IN_PROCESSOR.items() if theirs in tree}
    return built(VideoBudget, values, file)


def _section(tree: Mapping[str, Any], name: str, kind: Any, file: Path) -> dict[str, Any]:
    """What a section says of the fields of a dataclass; transformers' own keys stand there, too."""
    section = tree.get(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"{file}: {name} must be an object, found {type(section).__name__}")
    return {f.name: section[f.name] for f in fields(kind) if f.name in section}


def _decoding(tree: Mapping[str, Any], file: Path) -> dict[str, Any]:
    """transformers' rule: without `do_sample` temperature, top-k and top-p mean nothing; with it they have defaults."""
    names = ("temperature", "top_k", "top_p") if tree.get("do_sample") else ()
    values = dict(zip(names, (1.0, 50, 1.0), strict=False)) | {name: tree[name] for name in names if name in tree}
    if "repetition_penalty" in tree:
        values["repetition_penalty"] = tree["repetition_penalty"]
    values = {name: value for name, value in values.items() if value is not None}
    found: dict[str, Any] = {"sampling": built(Sampling, values, file)}
    if (most := tree.get("max_new_tokens")) is not None:
        if not isinstance(most, int) or most < 1:
            raise ValueError(f"{file}: max_new_tokens must be a positive whole number, found {most!r}")
        found["max_new_tokens"] = most
    return found


def built(kind: Any, values: Mapping[str, Any], file: str | Path) -> Any:
    """A dataclass of values from outside, whose types nobody has checked yet.

    Raises:
        ValueError: a name that it does not have, a value of another type, not finite or out of bounds; begins with the
            `file` that it comes from.
    """
    known = [f.name for f in fields(kind)]
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"{file}: there is no {unknown[0]!r}; known: {', '.join(known)}")
    for f in fields(kind):
        allowed = {"int": (int,), "float": (int, float), "float | None": (int, float, type(None)), "str": (str,)}
        value = values.get(f.name, f.default)
        if not isinstance(value, allowed[str(f.type)]) or isinstance(value, bool):
            raise ValueError(f"{file}: {f.name} must be of type {f.type}, found {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{file}: {f.name} must be finite, found {value}")
    try:
        return kind(**values)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
