"""lmms-eval's model `neo_ov`, with several images, clips and batches.

    lmms-eval --model neo_ov --model_args pretrained=runs/demo-0/export,system_prompt= --tasks ... --batch_size 8

The id is that of lmms-eval's own model, which takes single questions about images: task files carry prompts and
budgets for `neo_ov`, and an installed entry point stands in front of what is built in. Defaults are those of the
built-in model, but for the pixel budgets, which are the folder's.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, islice
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from lmms_eval.protocol import ChatMessages
from tqdm import tqdm

from .exported import Conversation, Exported, enlarged

MANIFEST = ModelManifest(model_id="neo_ov", chat_class_path="neo_lightning.harness.lmms_eval.NeoOv")
"""What the entry point names."""

_OURS = ("min_pixels", "max_pixels", "system_prompt", "upscale", "remove_think")
"""What task files say about `neo_ov` beside the arguments of `generate`."""
_FIXED = ("patch_size", "downsample_ratio", "add_special_tokens", "enable_thinking", "until")
"""Likewise, but nothing that could be otherwise here; the built-in model takes no notice of `until` either."""
_OF_DRAWING = ("temperature", "top_p", "top_k")
"""None says that they are of no account, also where the folder has values."""


class NeoOv(lmms):
    """NEO-ov."""

    is_simple = False

    def __init__(
        self,
        pretrained: str = "Paranioar/NEO1_5-2B-SFT",
        device: str | None = None,
        dtype: str = "auto",
        batch_size: int | str = 1,
        min_pixels: int | str | None = None,
        max_pixels: int | str | None = None,
        fps: float | str | None = None,
        max_frames: int | str | None = None,
        system_prompt: str = "Reason step by step.",
        max_new_tokens: int | str = 4096,
    ) -> None:
        """
        Args:
            pretrained: a folder, such as a run's export, or an id of the hub.
            device, dtype: see `Exported`; under a launcher each process has the GPU of its number.
            batch_size: questions that go through the model together.
            min_pixels, max_pixels: of an image, where the task does not say them; by default the folder's.
            fps, max_frames: of a clip, in place of the folder's.
            system_prompt: where the task does not say one; empty for none.
            max_new_tokens: likewise.
        """
        super().__init__()
        self.batch_size = int(batch_size)
        self.system_prompt, self.max_new_tokens = system_prompt, int(max_new_tokens)
        self._budget = {"min_pixels": min_pixels, "max_pixels": max_pixels}
        self._clips = {
            name: kind(value)
            for name, kind, value in (("fps", float, fps), ("max_frames", int, max_frames))
            if value is not None
        }
        self.accelerator = _accelerator()
        if self.accelerator is not None:
            self._rank, self._world_size = self.accelerator.process_index, self.accelerator.num_processes
            device = device or str(self.accelerator.device)
        self.exported = Exported(pretrained, device=device, dtype=dtype)

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answers, in the order of the requests; neighbours with equal settings share a batch."""
        results: list[GenerationResult] = []
        bar = tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding")
        for batch in self._batches(requests):
            settings = batch[0].args[2]
            conversations = [self._conversation(request, settings) for request in batch]
            found = self.exported.answer(
                conversations,
                decoding=self._decoding(settings),
                images={name: int(float(v)) for name in self._budget if (v := settings.get(name, self._budget[name]))},
                videos=self._clips,
            )
            for request, (text, tokens) in zip(batch, found, strict=True):
                if settings.get("remove_think"):
                    text = re.sub(r"<(think|thinking)>.*?</\1>", "", text, flags=re.DOTALL | re.IGNORECASE).strip()
                results.append(GenerationResult(text=text, token_counts=TokenCounts(output_tokens=tokens)))
                self.cache_hook.add_partial("generate_until", (request.args[0], settings), text)
            bar.update(len(batch))
        bar.close()
        return results

    def _batches(self, requests: Sequence[Instance]) -> Iterator[list[Instance]]:
        for _, alike in groupby(requests, key=lambda request: json.dumps(request.args[2], sort_keys=True, default=str)):
            while batch := list(islice(alike, self.batch_size)):
                yield batch

    def _conversation(self, request: Instance, settings: Mapping[str, Any]) -> Conversation:
        _, doc_to_messages, _, doc_id, task, split = request.args
        told = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id])).messages
        spoken = [message for message in told if message.role != "system"]
        own = "\n".join(part.text for message in told if message.role == "system" for part in message.content).strip()
        system = str(settings.get("system_prompt", own or self.system_prompt)).replace("\\n", "\n")
        turns = [{"role": "system", "content": [{"type": "text", "text": system}]}] if system else []
        for message in spoken:
            parts = [_part(part, f"{task}, document {doc_id}", settings) for part in message.content]
            turns.append({"role": message.role, "content": parts})
        return turns

    def _decoding(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of `generate`; what a task leaves open is decided as by the built-in model."""
        found = {name: value for name, value in settings.items() if name not in (*_OURS, *_FIXED)}
        found = {"do_sample": False, "max_new_tokens": self.max_new_tokens} | found
        if not found["do_sample"]:
            found |= dict.fromkeys(_OF_DRAWING)
        return {
            name: value
            for name, value in found.items()
            if value is not None or name in ("temperature", "top_p", "top_k")
        }

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not for chat models: lmms-eval's tasks ask them to generate."""
        raise NotImplementedError("neo_ov answers tasks with output_type generate_until; loglikelihood is not one")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[GenerationResult]:
        """Tasks whose next question depends on the answer."""
        raise NotImplementedError("neo_ov answers tasks with output_type generate_until, of one round")


def _part(part: Any, where: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A part of lmms-eval's message as a chat template takes it.

    Raises:
        ValueError: audio.
    """
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type == "image":
        return {"type": "image", "image": enlarged(part.url, 2) if _true(settings.get("upscale")) else part.url}
    if part.type == "video":
        section = None
        if part.start_time is not None or part.end_time is not None:
            section = part.start_time or 0.0, math.inf if part.end_time is None else part.end_time
        return {"type": "video", "video": part.url, "section": section}
    raise ValueError(f"{where}: NEO-ov sees text, images and clips; this has a part of type {part.type!r}")


def _true(value: Any) -> bool:
    return str(value).lower() == "true"


def _accelerator() -> Any:
    """accelerate's handle on the processes of a launcher, which lmms-eval waits with; None without one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    from accelerate import Accelerator

    accelerator = Accelerator()
    if torch.cuda.is_available():
        torch.cuda.set_device(accelerator.device)
    return accelerator
