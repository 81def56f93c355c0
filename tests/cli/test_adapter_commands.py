"""An adapter through the command line: a run leaves one, and `export`, `merge`, `chat` and `load` take it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import safe_open

from neo_lightning.answering import Answering, load, write_folder
from neo_lightning.checkpoint.load import load_state
from neo_lightning.cli.main import main
from neo_lightning.data.text.tokenizer import Tokenizer
from tests.tiny_models import random_model, tiny_config

RECIPE = """
run: {{name: terms, dir: {dir}}}
stages:
  one:
    steps: 2
    context: 512
    packs_per_step: 1
    mixture: {{text: 1, image: 1}}
    trains: [lora, "*.norm.weight"]
    lr: 0.5
    image: {{min_pixels: 4096, max_pixels: 9216}}
model: {{init: {{kind: released, folder: {start}}}, lora: {{rank: 2, alpha: 4, targets: [backbone]}}}}
data: {{manifest: {scenes}/manifest.yaml, tokenizer: {scenes}/tokenizer}}
trainer: {{accelerator: cpu, devices: 1}}
export: true
"""


def test_a_tied_head_trained_whole_gives_a_model_and_no_adapter(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(tiny_config(Tokenizer.load(scenes / "tokenizer")), tie_word_embeddings=True)
    base = write_folder(random_model(config, 0), tmp_path / "base", scenes / "tokenizer", Answering.of_config(config))
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    text = RECIPE.format(dir=run, start=base, scenes=scenes).replace("*.norm.weight", "*embed_tokens*")
    recipe.write_text(text, encoding="utf-8")
    for _ in range(2):
        assert main(["run", str(recipe)]) == 0
    assert "no adapter is written, the export holds everything: language_model" in capsys.readouterr().err
    assert not (run / "adapter").exists()
    assert (run / "report.html").is_file()
    moved = load_state(run / "export")["language_model.model.embed_tokens.weight"]
    assert not moved.equal(load_state(base)["language_model.model.embed_tokens.weight"])


def test_a_runs_adapter_is_its_export_without_the_base(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(Tokenizer.load(scenes / "tokenizer"))
    base = write_folder(random_model(config, 0), tmp_path / "base", scenes / "tokenizer", Answering.of_config(config))
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(RECIPE.format(dir=run, start=base, scenes=scenes), encoding="utf-8")
    assert main(["run", str(recipe)]) == 0
    adapter, merged = run / "adapter", tmp_path / "merged"
    assert main(["model", "merge", str(base), str(adapter), str(merged)]) == 0
    for name, kind in (("again", []), ("whole", ["--merge", "--dtype", "float32"])):
        assert main(["model", "export", "--run", str(run), "--out", str(tmp_path / name), *kind]) == 0
    exported, plain = load_state(run / "export"), load_state(base)
    assert sum(not exported[name].equal(plain[name]) for name in plain) == 7 + 1
    for folder in (merged, tmp_path / "whole"):
        assert all(exported[name].equal(x) for name, x in load_state(folder).items())
    again, first = (_words_and_tensors(folder) for folder in (tmp_path / "again", adapter))
    assert again == first
    asked = load(base, adapter=adapter).answering
    assert asked.image == load(merged).answering.image == load(run / "export").answering.image
    assert asked.image.max_pixels == 9216 != load(base).answering.image.max_pixels
    said = []
    for model in ([str(base)], [str(base), "--adapter", str(adapter)], [str(run / "export")]):
        capsys.readouterr()
        assert main(["chat", "--prompt", "What is it?", "--max-new-tokens", "8", "--model", *model]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] != said[1] == said[2]
    assert main(["chat", "--prompt", "x", "--model", str(base), "--adapter", str(run)]) == 2
    assert f"its adapter is {adapter}" in capsys.readouterr().err


def _words_and_tensors(adapter: Path) -> tuple[dict[str, str], dict[str, list[float]]]:
    """What a file of weights says. Not its bytes: safetensors writes two words of metadata in any order."""
    with safe_open(adapter / "adapter_model.safetensors", framework="pt") as file:
        return dict(file.metadata()), {name: file.get_tensor(name).flatten().tolist() for name in file.keys()}  # noqa: SIM118
