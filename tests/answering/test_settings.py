"""What lies in a model folder beside its weights: written, read again, and the defaults where others released it."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from neo_lightning.answering import Answering, Engine, load, write_folder
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.sampling import Sampling
from neo_lightning.types import Message, PixelBudget, VideoBudget
from tests.tiny_models import random_model

OWN = Answering(
    image=PixelBudget(min_pixels=2048, max_pixels=5000),
    video=VideoBudget(fps=None, max_frames=5, min_pixels=1024, max_pixels=3000, prefix="{frames}: ", frame_label="#"),
    sampling=Sampling(temperature=0.5, top_k=7, top_p=0.9, repetition_penalty=1.1),
    max_new_tokens=33,
)


@pytest.mark.parametrize("written", [OWN, replace(OWN, sampling=Sampling()), Answering()])
def test_what_is_written_is_read(written: Answering, config: NeoConfig, tokenizer_folder: Path, tmp_path: Path) -> None:
    write_folder(random_model(config, 0), tmp_path, tokenizer_folder, written)
    assert load(tmp_path).answering == written
    assert Answering.from_dict(json.loads(json.dumps(asdict(written)))) == written, "as a checkpoint notes it"
    released = json.loads((tmp_path / "config.json").read_text())["vision_config"]
    assert (released["min_pixels"], released["max_pixels"]) == (written.image.min_pixels, written.image.max_pixels)


def test_a_released_folder_keeps_the_released_defaults(tmp_path: Path) -> None:
    found = Answering.read(tmp_path, NeoConfig())
    assert found.image == PixelBudget(min_pixels=65536, max_pixels=4194304)
    assert (found.video.fps, found.video.max_frames) == (1.0, 128)
    assert (found.video.min_pixels, found.video.max_pixels) == (4096, 230400)
    assert found.sampling == Sampling()


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        ({"temperature": 0.6, "top_k": 20}, Sampling()),
        ({"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.05}, Sampling(repetition_penalty=1.05)),
        ({"do_sample": True}, Sampling(temperature=1.0, top_k=50)),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [1, 2]},
            Sampling(temperature=0.6, top_k=20, top_p=0.95),
        ),
        ({"do_sample": True, "temperature": None, "top_k": None}, Sampling()),
    ],
)
def test_generation_config_is_read_as_transformers_reads_it(
    generation: dict[str, Any], sampling: Sampling, tmp_path: Path
) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert Answering.read(tmp_path, NeoConfig()).sampling == sampling


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("processor_config.json", {"video_processor": 3}, "video_processor must be an object"),
        ("processor_config.json", {"video_processor": {"max_frames": "many"}}, "max_frames must be of type int"),
        ("processor_config.json", {"video_processor": {"max_frames": True}}, "max_frames must be of type int"),
        ("processor_config.json", {"video_processor": {"fps": -1.0}}, "fps > 0"),
        (
            "processor_config.json",
            {"video_prefix": "{nonsense}"},
            "prefix has {nonsense}; known: {end}, {frames}, {fps}",
        ),
        ("processor_config.json", {"frame_label": 3}, "frame_label must be of type str"),
        ("generation_config.json", {"do_sample": True, "top_p": 7}, "0 < top_p <= 1"),
        ("generation_config.json", {"max_new_tokens": 0}, "max_new_tokens must be a positive whole number"),
    ],
)
def test_a_bad_value_names_file_and_key(file: str, content: Any, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"\w") as error:
        Answering.read(tmp_path, NeoConfig())
    assert str(tmp_path / file) in str(error.value)
    assert said in str(error.value)


def test_bad_image_budgets_name_config_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json, vision_config: pixel budget"):
        Answering.read(tmp_path, NeoConfig(min_pixels=100, max_pixels=10))


def test_a_text_of_a_folder_is_no_format_string() -> None:
    from neo_lightning.data.text.serialize import video_prefix

    hostile = VideoBudget(prefix="{frames.__class__} {frames!r} {frames")
    assert video_prefix(3, 1.0, hostile) == hostile.prefix


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (2048, 5000, None, 5)),
        ({"max_pixels": 4000}, (2048, 4000, None, 5)),
        ({"max_pixels": 1000}, (1000, 1000, None, 5)),
        ({"min_pixels": 9000}, (9000, 9000, None, 5)),
        ({"min_pixels": 10, "max_pixels": 20}, (10, 20, None, 5)),
        ({"fps": 2.0, "max_frames": 9}, (2048, 5000, 2.0, 9)),
        ({"fps": 0}, (2048, 5000, None, 5)),
    ],
)
def test_overrides(changes: dict[str, Any], expected: tuple[Any, ...]) -> None:
    changed = OWN.changed(**changes)
    image, video = changed.image, changed.video
    assert (image.min_pixels, image.max_pixels, video.fps, video.max_frames) == expected
    assert (OWN.differences(changed) == []) == (changed == OWN)


def test_impossible_overrides_are_refused() -> None:
    for changes in ({"min_pixels": 20, "max_pixels": 10}, {"max_pixels": 0}, {"max_frames": 0}, {"fps": -1}):
        with pytest.raises(ValueError, match="budget"):
            OWN.changed(**changes)


def test_the_chat_template_is_the_one_that_was_trained(folder: Path, engine: Engine, tokenizer: Tokenizer) -> None:
    theirs = AutoTokenizer.from_pretrained(str(folder))
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?"), ("user", "Why?")]
    rendered = theirs.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns], tokenize=False, add_generation_prompt=True
    )
    prompt = engine.prompt([Message(role=role, parts=(text,)) for role, text in turns])  # type: ignore[arg-type]
    assert tokenizer.decode(prompt.input_ids.tolist(), skip_special_tokens=False) == rendered
