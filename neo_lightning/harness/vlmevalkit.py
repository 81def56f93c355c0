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

from .exported import Conversation, Exported

NAME = "neo"
"""Of the model, in VLMEvalKit's tables and files."""

PRESETS: dict[str, dict[str, Any]] = {
    "greedy": {
        "system_prompt": "",
        "decoding": {"do_sample": False, "max_new_tokens": 4096},
        "images": {},
        "videos": {},
    },
    "authors": {
        "system_prompt": "Reason step by step.",
        "decoding": {
            "do_sample": True,
            "temperature": 0.6,
            "top_p": 0.95,
            "top_k": 20,
            "repetition_penalty": 1.05,
            "max_new_tokens": 16384,
        },
        "images": {"min_pixels": 1280 * 32 * 32, "max_pixels": 16384 * 32 * 32},
        "videos": {"min_pixels": 4 * 32 * 32, "max_pixels": 360 * 640},
    },
}
"""How a model is asked: the likeliest tokens at the folder's budgets, or as by the authors' VLMEvalKit_ov (78faae9)."""


def model_class() -> type:
    """The model as VLMEvalKit wants it; a function, as its base class is only there in VLMEvalKit's environment."""
    from vlmeval.vlm.base import BaseModel

    class NeoOv(BaseModel):
        """NEO-ov: interleaved images, and clips as files."""

        INTERLEAVE = True
        VIDEO_LLM = True

        def __init__(
            self,
            model_path: str,
            *,
            device: str | None = None,
            system_prompt: str = "",
            decoding: Mapping[str, Any],
            images: Mapping[str, int] | None = None,
            videos: Mapping[str, Any] | None = None,
            **_: Any,
        ) -> None:
            """See `Exported.answer`; what else VLMEvalKit passes is about servers."""
            super().__init__()
            self.exported = Exported(model_path, device=device)
            self.system_prompt = system_prompt
            self.decoding, self.images, self.videos = dict(decoding), images, videos
            self.nframe = int((videos or {}).get("max_frames", 0))
            self.fps = float((videos or {}).get("fps") or -1)

        def generate_inner(self, message: Sequence[Mapping[str, Any]], dataset: str | None = None) -> str:
            turns = conversation(message, self.system_prompt)
            ((text, _),) = self.exported.answer([turns], decoding=self.decoding, images=self.images, videos=self.videos)
            return text

    return NeoOv


def conversation(message: Sequence[Mapping[str, Any]], system_prompt: str) -> Conversation:
    """VLMEvalKit's message (parts with `type`, `value` and perhaps `role`) as a chat template takes it.

    Neighbours of one role are one turn. The system prompt stands in front where the message has none of its own.
    """
    turns: Conversation = []
    for part in message:
        role, kind = part.get("role", "user"), part["type"]
        if not turns or turns[-1]["role"] != role:
            turns.append({"role": role, "content": []})
        turns[-1]["content"].append({"type": kind, kind: part["value"]})
    if system_prompt and not any(turn["role"] == "system" for turn in turns):
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": system_prompt}]})
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
