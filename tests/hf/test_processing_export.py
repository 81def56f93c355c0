"""An export's processor where this package is not: in a process of its own, offline, by the folder's files alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from neo_lightning.answering import Answering, load, write_folder
from neo_lightning.answering.conversation import read_conversation
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.model.config import NeoConfig
from tests.data.data_helpers import clip, encoded, picture
from tests.evaluation.conftest import random_model
from tests.hf.processing_support import IMAGE, VIDEO, exif, tokenizer, user

__all__ = ["tokenizer"]

OUTSIDE = """
import json, sys
from pathlib import Path

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "neo_lightning":
            raise ImportError("neo_lightning is not here")

sys.meta_path.insert(0, Absent())
from safetensors.torch import save_file
from transformers import AutoImageProcessor, AutoProcessor, AutoVideoProcessor, pipeline

folder, out = sys.argv[1], Path(sys.argv[2])
talks = json.loads((out / "talks.json").read_text())
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
for number, talk in enumerate(talks):
    found = processor.apply_chat_template(
        talk, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    save_file(dict(found), out / f"{number}.safetensors")
parts = [cls.from_pretrained(folder, trust_remote_code=True) for cls in (AutoImageProcessor, AutoVideoProcessor)]
pipe = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
how = {"return_full_text": False, "max_new_tokens": 8}
answers = [pipe(text=talk, **how)[0]["generated_text"] for talk in talks]
told = {
    "answers": answers,
    "together": [found[0]["generated_text"] for found in pipe(text=talks, **how)],
    "budget": [parts[0].min_pixels, parts[0].max_pixels, parts[1].max_frames],
    "classes": [type(part).__name__ for part in (processor, *parts)],
}
(out / "told.json").write_text(json.dumps(told))
"""


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export of a tiny random model."""
    config = NeoConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        extra_num_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        patch_hidden_size=16,
        tie_word_embeddings=False,
        image_token_id=tokenizer.context_id,
        image_start_token_id=tokenizer.img_start_id,
    )
    made = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(made)
    answering = Answering(image=IMAGE, video=VIDEO, max_new_tokens=8)
    return write_folder(random_model(config, 0), tmp_path_factory.mktemp("export"), made, answering)


@pytest.fixture(scope="module")
def talks(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    """Conversations with files."""
    out = tmp_path_factory.mktemp("media")
    (out / "a.jpg").write_bytes(encoded(picture(300, 290), "JPEG", exif=exif(6)))
    (out / "b.png").write_bytes(encoded(picture(70, 50).convert("LA")))
    (out / "c.mp4").write_bytes(clip(12))
    image, other, video = (
        {"type": k, "path": str(out / n)} for k, n in (("image", "a.jpg"), ("image", "b.png"), ("video", "c.mp4"))
    )
    talk = [
        {"role": "system", "content": "Be brief."},
        *user("Hi <|im_end|>"),
        {"role": "assistant", "content": "Yes?"},
    ]
    return [
        user("What colour is the circle?"),
        [*talk, {"role": "user", "content": [image, {"type": "text", "text": "What is this?"}]}],
        [{"role": "user", "content": [other, {"type": "text", "text": "or"}, image, {"type": "text", "text": "?"}]}],
        [{"role": "user", "content": [video, {"type": "text", "text": "What happens?"}]}],
    ]


@pytest.fixture(scope="module")
def outside(folder: Path, talks: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the process outside wrote."""
    out = tmp_path_factory.mktemp("outside")
    (out / "talks.json").write_text(json.dumps(talks))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", OUTSIDE, str(folder), str(out)],
        cwd=out,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return out


def test_prompts_outside_are_the_engines(folder: Path, talks: Any, outside: Path) -> None:
    engine = load(folder, device="cpu")
    for number, talk in enumerate(talks):
        wanted = engine.prompt(read_conversation(talk))
        found = load_file(outside / f"{number}.safetensors")
        assert found["input_ids"].tolist() == [wanted.input_ids.tolist()]
        if len(wanted.grids):
            assert torch.equal(found["pixel_values"], wanted.patches)
            assert torch.equal(found["grid_hw"], 2 * wanted.grids.long())


def test_the_pipeline_answers_as_the_engine(folder: Path, talks: Any, outside: Path) -> None:
    told = json.loads((outside / "told.json").read_text())
    assert told["classes"] == ["NEOChatProcessor", "NEOChatImageProcessor", "NEOChatVideoProcessor"]
    assert told["budget"] == [IMAGE.min_pixels, IMAGE.max_pixels, VIDEO.max_frames]
    wanted = load(folder, device="cpu").answer(talks)
    assert len(set(wanted)) > 1, "answers that differ"
    assert told["answers"] == told["together"] == wanted


def test_who_registers_needs_no_code_from_the_folder(folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoProcessor

    import neo_lightning.hf

    assert type(AutoProcessor.from_pretrained(folder)) is neo_lightning.hf.NEOChatProcessor
