"""VLMEvalKit with a NEO model: registered from outside, as it has no plugins, and its own `run.py` started.

neo-lightning eval --harness vlmevalkit --model runs/demo-0/export --benchmark MMStar,MMBench_DEV_EN --out scores/
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .authors import Asked, asked, has_words, words
from .exported import Conversation, Exported, enlarged

NAME = "neo"
"""Of the model, in VLMEvalKit's tables and files."""
LIKELIEST = Asked(system_prompt="", decoding={"do_sample": False, "max_new_tokens": 4096}, images={}, videos={})
"""The preset `greedy`: the likeliest tokens, at the folder's budgets, in VLMEvalKit's words."""
_UNTOLD = 1, 1.0
"""`nframe` and `fps` that VLMEvalKit replaces, before each question about a clip, by its data set's: one is None then.
Where one of them is 0 it leaves both alone."""


def model_class() -> type:
    """The model as VLMEvalKit wants it; a function, as its base class is only there in VLMEvalKit's environment."""
    from vlmeval.dataset import DATASET_MODALITY, DATASET_TYPE
    from vlmeval.vlm.base import BaseModel

    class NeoOv(BaseModel):
        """NEO-ov: interleaved images, and clips as files."""

        INTERLEAVE = True
        VIDEO_LLM = True

        def __init__(
            self,
            model_path: str,
            *,
            preset: str = "greedy",
            device: str | None = None,
            changes: Mapping[str, Mapping[str, Any]] | None = None,
            **_: Any,
        ) -> None:
            """
            Args:
                model_path: see `Exported`, as for the device.
                preset: `greedy` or `authors`.
                changes: to `decoding`, `images` and `videos` of the preset.
                _: what else VLMEvalKit passes is about servers.
            """
            super().__init__()
            self.exported, self.preset, self.changes = Exported(model_path, device=device), preset, dict(changes or {})
            self.nframe, self.fps = _UNTOLD

        def use_custom_prompt(self, dataset: str) -> bool:
            return self.preset == "authors" and has_words(dataset, DATASET_MODALITY(dataset))

        def build_prompt(self, line: Mapping[str, Any], dataset: str) -> list[dict[str, str]]:
            text = words(line, dataset, DATASET_TYPE(dataset))
            images = [{"type": "image", "value": path} for path in self.dump_image(line, dataset)]
            return around(images, text)

        def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
            how = asked(dataset or "") if self.preset == "authors" else LIKELIEST
            decoding, images, videos = (
                {**getattr(how, name), **self.changes.get(name, {})} for name in ("decoding", "images", "videos")
            )
            most = videos.get("max_frames")
            if self.fps is None:
                videos["num_frames"] = min(self.nframe, most or self.nframe)
            elif self.nframe is None:
                videos["fps"] = self.fps
            self.nframe, self.fps = _UNTOLD
            turns = conversation(message, how.system_prompt, enlarge=how.enlarge)
            ((text, _),) = self.exported.answer([turns], decoding=decoding, images=images, videos=videos)
            return text

    return NeoOv


def around(images: Sequence[dict[str, str]], text: str) -> list[dict[str, str]]:
    """One image in front of a text, several behind it, each in a line of its own, as the authors have them."""
    if len(images) == 1:
        return [images[0], {"type": "text", "value": f"\n{text}"}]
    return [
        {"type": "text", "value": text},
        *(part for image in images for part in (image, {"type": "text", "value": "\n"})),
    ]


def conversation(message: Sequence[Mapping[str, Any]], system_prompt: str, *, enlarge: int = 1) -> Conversation:
    """VLMEvalKit's message (parts with `type`, `value` and perhaps `role`) as a chat template takes it.

    Neighbours of one role are one turn. There is one system turn: ours where we have a prompt, and its text is then the
    user's, as by the authors. An answer that the message begins ("Best option:(") is left out: NEO begins its own.
    """
    parts = list(message)
    while parts and parts[-1].get("role") == "assistant":
        parts.pop()
    turns: Conversation = []
    if system_prompt:
        turns.append({"role": "system", "content": [{"type": "text", "text": system_prompt}]})
    for part in parts:
        role, kind, value = part.get("role", "user"), part["type"], part["value"]
        if role not in ("system", "assistant") or (role == "system" and system_prompt):
            role = "user"
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        if kind == "image" and enlarge > 1:
            value, enlarge = enlarged(value, enlarge), 1
        turns[-1]["content"].append({"type": kind, kind: value})
    return turns


def launch(
    model: str,
    datasets: Sequence[str],
    *,
    data: Path | None,
    out: Path,
    further: Sequence[str] = (),
    **how: Any,
) -> None:
    """Register the model and start VLMEvalKit's `run.py` in this process.

    Args:
        model: folder or id.
        datasets: VLMEvalKit's names.
        data: folder of the TSV files (`LMUData`); None leaves it to VLMEvalKit, which downloads.
        out: for its predictions and scores.
        further: more arguments of `run.py`, such as `--judge exact_matching`.
        how: see `model_class`.

    Raises:
        ValueError: VLMEvalKit is not installed here, or without its `run.py`.
    """
    spec = find_spec("vlmeval")
    if spec is None or spec.origin is None:
        raise ValueError(
            "VLMEvalKit is not installed in this environment: clone it, `pip install -e` it in an environment of its "
            "own, `pip install --no-deps` this package there, and run the command there"
        )
    script = Path(spec.origin).parents[1] / "run.py"
    if not script.is_file():
        raise ValueError(f"VLMEvalKit's run.py is not at {script}: install it from its clone, with `pip install -e`")
    if data is not None:
        os.environ["LMUData"] = str(data.resolve())  # noqa: SIM112 - its own spelling
    from vlmeval.config import supported_VLM

    supported_VLM[NAME] = partial(model_class(), model_path=model, **how)
    sys.argv = [str(script), "--data", *datasets, "--model", NAME, "--work-dir", str(out), *further]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")
