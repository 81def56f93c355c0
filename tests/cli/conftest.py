from __future__ import annotations

from pathlib import Path

import lightning.pytorch  # noqa: F401 - its log keeps the standard error of the moment: not that of one test
import pytest
import torch

from neo_lightning.cli.main import main

RECIPE = """
# A run of seconds.
#
# Purpose    tests

run: {{name: micro, dir: {dir}}}
seed_everything: 3
stages:
  one: {{steps: 2, context: 192, packs_per_step: 2, mixture: {{text: 1}}, lr: 1e-3, trains: [backbone]}}
  two:
    steps: 4
    context: 192
    packs_per_step: 2
    mixture: {{text: 1, image: 2}}
    lr: 1e-3
    image: {{min_pixels: 4096, max_pixels: 4096}}
model:
  model: {{vocab_size: 448, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, extra_num_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, patch_hidden_size: 8}}
data: {{manifest: {scenes}/manifest.yaml, tokenizer: {scenes}/tokenizer}}
trainer: {{accelerator: cpu, devices: 1, log_every_n_steps: 1}}
evaluation:
  - class_path: neo_lightning.evaluation.SceneEvaluation
    init_args: {{shards: '{scenes}/test/{{colour,copy}}-*.tar', max_new_tokens: 4}}
"""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few drawn scenes with their manifest and tokenizer, made by the command itself."""
    out = tmp_path_factory.mktemp("scenes")
    counts = "text=60,image=24,pair=12,multi_image=6,video=2"
    line = f"data scenes --out {out} --train {counts} --held-out 2 --vocab-size 448 --workers 0"
    assert main(line.split()) == 0
    return out


@pytest.fixture
def micro(scenes: Path, tmp_path: Path) -> Path:
    """The micro recipe; its run folder is `tmp_path / "run"`."""
    file = tmp_path / "micro.yaml"
    file.write_text(RECIPE.format(dir=tmp_path / "run", scenes=scenes), encoding="utf-8")
    return file
