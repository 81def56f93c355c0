"""Recipes of the design space: laid over the demo they train, in their real size they are built."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from neo_lightning.checkpoint.names import expected_shapes
from neo_lightning.cli.arguments import parse
from neo_lightning.cli.parser import NeoCLI
from neo_lightning.cli.recipe import shipped
from neo_lightning.model.flops import flops_per_step
from neo_lightning.model.neo import Neo
from neo_lightning.training.build import Init, first_weights
from neo_lightning.training.stages import check_stages, trained_names
from tests.model.design.support import document, row

DESIGNS = shipped("recipes/design")
FFN, QKVO = 3 * 2048 * 6144, 2 * 2048 * (2048 + 1024)
"""Weights of a Qwen3-1.7B layer's MLP and of its attention."""
TABLE, MERGE = 64 * 64 * 1024, 4 * 1024 * 2048
"""Learned positions, and the convolution that merges four patches."""
LINEARS = 2 * 4096 + 2 * 3072 + 3 * 8192
"""Inputs and outputs of a layer's seven linear layers."""
ADDED = {
    "fuyu": 3 * 30**2 * 2048,
    "solo": 3 * 32**2 * 2048,
    "eve_v2": 28 * (FFN + QKVO) + 3 * 16**2 * 1024 + MERGE,
    "mono_internvl": 28 * FFN + 3 * 14**2 * 1024 + TABLE + MERGE,
    "sail": 3 * 32**2 * 2048,
    "onecat": 28 * FFN + 3 * 14**2 * 1024 + TABLE + MERGE,
    "vora": 24 * 1024 * LINEARS + 3 * 14**2 * 1024 + TABLE + 1024 * 2048,
    "hovle": 8 * (FFN + QKVO) + 3 * 14**2 * 1024 + TABLE + MERGE,
    "encoder_based": 24 * 12 * 1024**2 + 3 * 14**2 * 1024 + 32 * 32 * 1024 + 2048 * (4096 + 2048),
}
"""Parameters in the real size beside Qwen3-1.7B's, without norms and biases."""
QWEN3 = 28 * (FFN + QKVO) + 151936 * 2048
HERE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1"]


def test_every_design_has_both_sizes() -> None:
    assert set(DESIGNS) == set(shipped("recipes/design/real")) == set(ADDED)


@pytest.mark.parametrize("name", DESIGNS)
def test_it_takes_a_step_in_the_demo_s_size(name: str) -> None:
    cli = NeoCLI(parse(["demo", f"--config=design/{name}"]))
    config = replace(cli.model.config, image_token_id=300)
    assert cli.settings.dir == f"runs/{name}", "its scenes lie in a folder of its own"
    assert cli.datamodule.rule == config.rule
    model = Neo(config)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    model.load_state_dict(dict(first_weights(config, Init(), shapes)))
    check_stages(model, cli.stages, config.extra_num_layers)
    trained = trained_names(shapes, cli.stages["pretrain"].trains, config.extra_num_layers)
    backbone = trained_names(shapes, ["backbone"], config.extra_num_layers)
    assert (trained >= backbone) == (cli.stages["pretrain"].trains == ("all",))
    batch = row(config, [document(config, [(2, 3), (3, 2)], text=9)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(3):
        loss = model(batch).loss_sum / batch.weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("name", DESIGNS)
def test_it_is_built_in_its_real_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO_DATA", str(tmp_path))
    cli = NeoCLI(parse(["neo_ov_2b", f"--config=design/{name}", f"--config=design/real/{name}", *HERE]))
    config = cli.model.config
    shapes = expected_shapes(config)
    assert config.post_layers == 28, "Qwen3-1.7B's"
    assert sum(s.numel() for s in shapes.values()) == pytest.approx(QWEN3 + ADDED[name], rel=5e-4)
    with torch.device("meta"):
        check_stages(Neo(config), cli.stages, config.extra_num_layers)
    assert not (cli.model._how["compile_blocks"] and config.design.splits), "refused when the model is built"
    assert flops_per_step(config, tokens=4096, patches=4096, pairs=4096 * 2000, supervised=100) > 0
    assert json.loads(json.dumps(config.to_dict()))["model_type"] == "neo_design"


@pytest.mark.parametrize("name", DESIGNS)
def test_it_opens_with_what_it_is(name: str) -> None:
    head = DESIGNS[name].read_text(encoding="utf-8").split("\nrun:")[0]
    for heading in ("# Reproduces ", "# Leaves out ", "# Source ", "# Launch "):
        assert heading in head, f"{name}: the opening comment lacks {heading!r}"
    assert f"lightning run demo --config design/{name}" in head
