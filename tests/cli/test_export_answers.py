"""What is exported answers as it was measured: held-out questions, asked through the command line of a new process.

The model has large random weights and is trained by so small a step that they stay: its answers hang on every pixel, so
another size of a picture, another frame or another word before a clip is another answer.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from neo_lightning.answering import Answering, load, write_folder
from neo_lightning.cli.main import main
from neo_lightning.data.index import iterate_samples
from neo_lightning.data.text.tokenizer import Tokenizer
from neo_lightning.evaluation.questions import open_shards
from neo_lightning.types import Media, Message, PixelBudget, VideoBudget
from tests.forks import Server, clean_environment
from tests.tiny_models import random_model, tiny_config

KINDS = ("colour", "same_colour", "which_of_three", "motion")
"""One image, two images, three images, a clip."""

RECIPE = """
run: {{name: measured, dir: {dir}}}
stages:
  first: {{steps: 1, context: 256, packs_per_step: 1, mixture: {{text: 1}}, lr: 1e-12}}
  last:
    steps: 1
    context: 512
    packs_per_step: 1
    mixture: {{text: 1, image: 1, multi_image: 1, video: 1}}
    lr: 1e-12
    image: {{min_pixels: 4096, max_pixels: 9216}}
    video: {{fps: 2.0, max_frames: 3, min_pixels: 4096, max_pixels: 9216,
            prefix: "{{frames}}:\\n", frame_label: "{{time}} "}}
model: {{init: {{kind: released, folder: {start}}}}}
data: {{manifest: {scenes}/manifest.yaml, tokenizer: {scenes}/tokenizer}}
trainer: {{accelerator: cpu, devices: 1}}
evaluation:
  - class_path: neo_lightning.evaluation.SceneEvaluation
    init_args: {{shards: '{scenes}/test/{{{kinds}}}-*.tar', max_new_tokens: 6}}
"""


@pytest.fixture(scope="session")
def start(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with large random weights."""
    tokenizer = Tokenizer.load(scenes / "tokenizer")
    config = tiny_config(tokenizer)
    folder = tmp_path_factory.mktemp("start")
    return write_folder(random_model(config, 0), folder, scenes / "tokenizer", Answering.of_config(config))


@pytest.fixture(scope="module")
def run(scenes: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: two stages with different budgets, report and export."""
    folder = tmp_path_factory.mktemp("measured")
    recipe = folder / "recipe_in.yaml"
    recipe.write_text(RECIPE.format(dir=folder, start=start, scenes=scenes, kinds=",".join(KINDS)), encoding="utf-8")
    assert main(["run", str(recipe)]) == 0
    return folder


def command(messages: tuple[Message, ...], folder: Path) -> list[str]:
    """The options of `chat` that ask one question, with its media written into a folder."""
    (turn,) = messages
    files, text = [], ""
    for number, part in enumerate(turn.parts):
        if isinstance(part, Media):
            file = folder / f"{number}"
            file.write_bytes(part.data)
            files += [f"--{part.kind}", str(file)]
            text += f"<{part.kind}>"
        else:
            text += part
    return [*files, "--prompt", text]


def asked_and_answered(run: Path, scenes: Path) -> list[tuple[tuple[Message, ...], dict[str, Any]]]:
    """Held-out questions, and the report's examples of them."""
    report = json.loads((run / "report.json").read_text())
    assert report["failures"] == []
    examples = {example["key"]: example for example in report["evaluations"]["scenes"]["examples"]}
    shards = open_shards([str(scenes / "test" / f"{kind}-*.tar") for kind in KINDS])
    found = [
        (s.messages[:-1], examples[s.key]) for source in shards for s in iterate_samples(source) if s.key in examples
    ]
    assert {example["type"] for _, example in found} == set(KINDS)
    return found


def test_held_out_questions_through_the_command_line(run: Path, scenes: Path, forks: Server, tmp_path: Path) -> None:
    found = asked_and_answered(run, scenes)
    answers = [example["answer"] for _, example in found]
    assert len(set(answers)) > len(answers) // 2, "answers that are all alike would prove nothing"
    line = ["chat", "--model", str(run / "export"), "--max-new-tokens", "6"]
    one_of_each = {example["type"]: (messages, example) for messages, example in found}
    for number, (messages, example) in enumerate(one_of_each.values()):
        options = [*line, *command(messages, tmp_path)]
        if number == 0:
            new = [sys.executable, "-m", "neo_lightning", *options]
            ended = subprocess.run(new, env=clean_environment(), capture_output=True, text=True)
            status, said = ended.returncode, ended.stdout
            assert not ended.stderr
        else:
            status, said = forks.run("neo_lightning.cli.main:main", options)
        assert status == 0, said
        assert said.strip() == example["answer"], example["key"]


def test_the_natural_layout_needs_no_placeholders(run: Path, scenes: Path, tmp_path: Path) -> None:
    model = load(run / "export")
    for messages, example in asked_and_answered(run, scenes):
        parts = messages[0].parts
        texts = [part for part in parts if isinstance(part, str)]
        media = [part.data for part in parts if isinstance(part, Media)]
        question = texts[-1].removeprefix("\n")
        beside = {"videos" if example["modality"] == "video" else "images": media}
        assert model.answer(question, **beside, max_new_tokens=6).strip() == example["answer"], example["key"]


@pytest.mark.parametrize(
    ("lost", "kinds"),
    [
        ("image", {"colour", "same_colour", "which_of_three"}),
        ("processor_config.json", {"motion"}),
    ],
)
def test_without_its_budgets_an_export_answers_otherwise(
    lost: str, kinds: set[str], run: Path, scenes: Path, tmp_path: Path
) -> None:
    for file in (run / "export").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    if lost == "image":
        for file, section in (("config.json", "vision_config"), ("processor_config.json", "image_processor")):
            tree = json.loads((tmp_path / file).read_text())
            del tree[section]["min_pixels"], tree[section]["max_pixels"]
            (tmp_path / file).write_text(json.dumps(tree))
    else:
        (tmp_path / lost).unlink()
    model = load(tmp_path)
    other = {
        example["type"]
        for messages, example in asked_and_answered(run, scenes)
        if model.answer(list(messages), max_new_tokens=6).strip() != example["answer"]
    }
    assert other == kinds


def test_every_way_to_a_folder_carries_the_last_stage(run: Path, scenes: Path, tmp_path: Path) -> None:
    ways = {
        "again": ["model", "export", "--run", str(run)],
        "copy": ["model", "import", "--model", str(run / "export")],
    }
    for name, line in ways.items():
        assert main([*line, "--out", str(tmp_path / name), "--dtype", "float32"]) == 0
    for folder in (run / "export", tmp_path / "again", tmp_path / "copy"):
        found = load(folder).answering
        assert found.image == PixelBudget(min_pixels=4096, max_pixels=9216)
        assert found.video == VideoBudget(
            fps=2.0, max_frames=3, min_pixels=4096, max_pixels=9216, prefix="{frames}:\n", frame_label="{time} "
        )
        for file in ("processor_config.json", "generation_config.json", "chat_template.jinja"):
            assert (folder / file).read_text() == (run / "export" / file).read_text()


def test_a_checkpoint_of_an_earlier_version_is_asked_as_its_recipe_says(run: Path, tmp_path: Path) -> None:
    old = tmp_path / "run"
    shutil.copytree(run, old)
    (meta,) = (old / "checkpoints").glob("step-00000002/meta.pt")
    noted = torch.load(meta, weights_only=True)
    del noted["neo_lightning"]["answering"]
    torch.save(noted, meta)
    file = meta.parent / "rank-00000-of-00001.safetensors"
    save_file(load_file(file), file, metadata={"layout": "{}"})  # nor had it checksums
    line = ["model", "export", "--run", str(old), "--out"]
    assert main([*line, str(tmp_path / "again")]) == 0
    assert load(tmp_path / "again").answering == load(run / "export").answering
    (old / "recipe.yaml").write_text("stages: {}\ndata: {tokenizer: x}")
    assert main([*line, str(tmp_path / "none"), "--tokenizer", str(run / "export")]) == 2
    assert not (tmp_path / "none").exists()
