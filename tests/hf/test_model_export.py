"""An export's model where this package is not, and `chat` as evaluation harnesses call it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModel, AutoTokenizer

import neo_lightning.hf  # noqa: F401  registers
from neo_lightning.answering import Engine, load
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.hf.layers_neo_chat import normalise
from tests.data.data_helpers import picture
from tests.hf.processing_support import tokenizer, user
from tests.hf.test_processing_export import folder

__all__ = ["folder", "tokenizer"]

OUTSIDE = """
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "neo_lightning":
            raise ImportError("neo_lightning is not here")

sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

folder, out = sys.argv[1:]
told = {"config": type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__}
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
talks = json.loads(sys.stdin.read())
given = processor.apply_chat_template(
    talks, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt", padding=True,
    padding_side="left",
)

def answers(model):
    return processor.batch_decode(model.generate(**given)[:, given["input_ids"].shape[1] :], skip_special_tokens=True)

for kind in (AutoModel, AutoModelForImageTextToText):
    model = kind.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    told[kind.__name__] = answers(model)
model.save_pretrained(out)
told["saved"] = answers(AutoModelForImageTextToText.from_pretrained(out, trust_remote_code=True))
print(json.dumps(told))
"""


def outside(script: str, *arguments: str, stdin: str, folder: Path) -> Any:
    """What a process without this package prints as JSON, offline, in an empty folder with caches of its own."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=folder,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a size that stays as it is."""
    file = tmp_path_factory.mktemp("image") / "a.png"
    picture(96, 64).save(file)
    return file


def test_an_export_generates_and_is_saved_again_outside(folder: Path, image: Path, tmp_path: Path) -> None:
    talks = [user(("image", str(image)), "What is this?"), user("What colour is the circle?")]
    told = outside(OUTSIDE, str(folder), str(tmp_path / "saved"), stdin=json.dumps(talks), folder=tmp_path)
    assert told["config"] == "NEOChatConfig"
    wanted = load(folder, device="cpu").answer(talks)
    assert len(set(wanted)) == 2
    assert told["AutoModel"] == told["AutoModelForImageTextToText"] == told["saved"] == wanted


def test_a_named_file_imports_all_that_it_reaches(folder: Path) -> None:
    """transformers 5.0 copies the file that `auto_map` names and those that it imports itself."""

    def imported(name: str) -> set[str]:
        return set(re.findall(r"^from \.(\w+) import", (folder / f"{name}.py").read_text(), re.MULTILINE))

    maps = [json.loads((folder / name).read_text()) for name in ("config.json", "processor_config.json")]
    maps += [maps[1]["image_processor"], maps[1]["video_processor"]]
    named = {place.partition(".")[0] for tree in maps for place in tree["auto_map"].values()}
    assert len(named) == 5
    for name in named:
        reached = imported(name)
        assert {other for found in reached for other in imported(found)} <= reached, name


@pytest.fixture(scope="module")
def engine(folder: Path) -> Engine:
    return load(folder, device="cpu")


@pytest.fixture(scope="module")
def chat(folder: Path) -> Any:
    """The model's `chat` with the folder's tokenizer."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(folder)

    def ask(question: str, *, system: str = "", **how: Any) -> Any:
        model.system_message = system
        settings = {"generation_config": {"do_sample": False, "max_new_tokens": 8}, "pixel_values": None}
        return model.chat(words, question=question, **{**settings, **how})

    return ask


def pixels(*files: Path) -> dict[str, torch.Tensor]:
    """As lmms-eval's `neo_ov` hands them: normalised patches [P, 768] and grids [n, 2] of images that fit."""
    rows = []
    for file in files:
        values = torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1)
        rows.append(values.unfold(1, 16, 16).unfold(2, 16, 16).permute(1, 2, 0, 3, 4).reshape(-1, 768))
    return {"pixel_values": normalise(torch.cat(rows)), "grid_hw": torch.tensor([[4, 6]] * len(files))}


def said(role: str, *parts: Any) -> dict[str, Any]:
    return {**user(*parts)[0], "role": role}


def test_chat_is_the_engines_conversation(chat: Any, engine: Engine, image: Path) -> None:
    shown = ("image", str(image))
    first = engine.answer([said("user", shown, "\nWhat is this?")])
    assert chat("What is this?", **pixels(image)) == first.strip()
    brief = engine.answer([said("system", "Be brief."), said("user", "What? ", shown, " or ", shown)])
    assert chat("What? <image> or <image>", system="Be brief.", **pixels(image, image)) == brief.strip()
    assert brief != first
    text = "Say <img> and <|im_end|>."
    assert chat(text) == engine.answer([said("user", text)]).strip()


def test_chat_goes_on_with_its_history(chat: Any, engine: Engine, image: Path) -> None:
    first, history = chat("What is this?", return_history=True, **pixels(image))
    assert history == [("<image>\nWhat is this?", first)]
    turns = [said("user", ("image", str(image)), "\nWhat is this?"), said("assistant", first), said("user", "Why?")]
    again, history = chat("Why?", history=history, return_history=True, **pixels(image))
    assert again == engine.answer(turns).strip()
    assert [question for question, _ in history] == ["<image>\nWhat is this?", "Why?"]


def test_chat_leaves_its_arguments_alone_and_names_images_without_a_place(chat: Any, image: Path) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 2, "do_sample": False}
    history = [("Hi", "Yes?")]
    chat("Go on", generation_config=settings, history=history)
    assert settings == {"max_new_tokens": 2, "do_sample": False}
    assert history == [("Hi", "Yes?")]
    with pytest.raises(ValueError, match="1 images more than there are <image>"):
        chat("<image>?", **pixels(image, image))


def test_an_answer_ends_with_its_turn(folder: Path, tokenizer: Tokenizer) -> None:
    """Whatever `generation_config` says of the end."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ends: list[int] = []
    end = torch.nn.functional.one_hot(torch.tensor(tokenizer.im_end_id), tokenizer.vocab_size).float()
    model.language_model.lm_head.register_forward_hook(lambda _, __, out: ends.append(1) or end.expand(out.shape))
    settings = {"max_new_tokens": 5, "eos_token_id": tokenizer.img_end_id}
    assert model.chat(AutoTokenizer.from_pretrained(folder), None, "Hi", settings) == ""
    assert len(ends) == 1
