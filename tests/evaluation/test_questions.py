"""Held-out shards -> questions for the model."""

from __future__ import annotations

import dataclasses
import json
import tarfile
from pathlib import Path

import pytest
import torch

from neo_lightning.answering import Engine
from neo_lightning.evaluation import EvaluationContext
from neo_lightning.evaluation.questions import open_shards, question
from neo_lightning.scenes import TASKS, generate
from neo_lightning.types import Message

from .conftest import CLIP, PER_TASK


@pytest.fixture
def engine(context: EvaluationContext) -> Engine:
    return context.engine


@pytest.mark.parametrize("task", ["position", "same_shape", "motion", "lookup"])
def test_question_holds_all_but_the_answer(task: str, shards: Path, engine: Engine) -> None:
    (source,) = open_shards([str(shards / f"{task}-*.tar")])
    assert [source.shard_part_size(unit) for unit in range(source.shard_parts)] == [PER_TASK]
    scene = generate(task, seed=3, split="test", index=1)
    asked = question(source.read(0, 1), engine)
    assert (asked.kind, asked.modality, asked.truth) == (task, TASKS[task].modality, scene.questions[0].answer)
    assert (asked.chance, asked.guess) == (TASKS[task].chance, TASKS[task].guess)
    assert asked.text.endswith(scene.questions[0].text)
    assert "Image-1" not in asked.text or task == "lookup"  # what stands before the last picture is not repeated
    prompt = engine.tokenizer.decode(asked.prompt.input_ids, skip_special_tokens=False)
    assert prompt.endswith(f"{scene.questions[0].text}<|im_end|>\n<|im_start|>assistant\n")
    pictures = {"text": 0, "image": 1, "multi_image": 2, "video": CLIP.max_frames}[asked.modality]
    assert asked.prompt.grids.shape == (pictures, 2)
    assert asked.patches.shape[0] == 4 * int(asked.prompt.visual.sum())
    assert torch.equal(asked.blanked.prompt.input_ids, asked.prompt.input_ids)


def test_missing_type_or_answer_is_refused(shards: Path, engine: Engine) -> None:
    (source,) = open_shards([str(shards / "copy-*.tar")])
    sample = source.read(0, 0)
    for name in ("task", "chance"):
        meta = {key: value for key, value in sample.meta.items() if key != name}
        with pytest.raises(ValueError, match=f"copy-000000: `meta` lacks '{name}'"):
            question(dataclasses.replace(sample, meta=meta), engine)
    turns = (*sample.messages, Message(role="user", parts=("And now?",)))
    with pytest.raises(ValueError, match="last message has to be the assistant's"):
        question(dataclasses.replace(sample, messages=turns), engine)


def test_nothing_is_left_out_silently(tmp_path: Path) -> None:
    """A broken held-out sample would otherwise make the accuracy one over fewer questions."""
    shard = tmp_path / "mixed.tar"
    with tarfile.open(shard, "w") as tar:
        for name, content in {
            "a.json": json.dumps({"text": "fine"}),
            "b.json": json.dumps({"messages": "nothing"}),
        }.items():
            path = tmp_path / name
            path.write_text(content)
            tar.add(path, arcname=name)
    with pytest.raises(ValueError, match=r"mixed\.tar: 1 held-out samples cannot be used, the first being 'b'"):
        open_shards([str(shard)])
    with pytest.raises(ValueError, match="matches no file"):
        open_shards([str(tmp_path / "nowhere-*.tar")])
