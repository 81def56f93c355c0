"""Every shipped recipe parses, is checked, and builds the network that it says; the papers' numbers are in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from neo_lightning.cli.arguments import parse
from neo_lightning.cli.parser import NeoCLI
from neo_lightning.cli.recipe import shipped
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo
from neo_lightning.training.build import network
from neo_lightning.training.stages import check_stages, parameter_table

RECIPES = shipped("recipes")
SIZES = {
    **dict.fromkeys(("neo_ov_2b", "neo_2b", "finetune", "finetune_lora"), (2.585, 12, 28)),
    **dict.fromkeys(("neo_ov_9b", "neo_9b"), (10.247, 6, 36)),
}
"""Billions of parameters, pre-buffer and post-LLM layers (NEO paper; layers of both kinds are equally large)."""

HERE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1"]


@pytest.fixture
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that stands for a released 2B: its config is read when a recipe is parsed."""
    (tmp_path / "config.json").write_text(json.dumps(NeoConfig().to_dict()), encoding="utf-8")
    monkeypatch.setenv("NEO_MODEL", str(tmp_path))


def build(name: str) -> tuple[NeoCLI, Neo]:
    cli = NeoCLI(parse([name, *HERE]))
    with torch.device("meta"):
        return cli, Neo(cli.model.config)


@pytest.mark.usefixtures("released")
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_builds_its_network_and_its_stages_fit(name: str) -> None:
    cli, model = build(name)
    config = cli.model.config
    if name in SIZES:
        billions, pre_buffer, post = SIZES[name]
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4)
        assert (config.extra_num_layers, config.post_layers) == (pre_buffer, post)
    model = network(config, cli.model.lora)
    check_stages(model, cli.stages, config.extra_num_layers)
    assert cli.trainer.max_steps == sum(stage.steps for stage in cli.stages.values())
    assert cli.model.stages == cli.datamodule.stages == cli.stages
    for row in parameter_table(model, cli.stages, config.extra_num_layers):
        if row.stage in ("pretrain",):
            assert row.trained == (0 if row.part == "backbone" else row.total)
        elif cli.model.lora is not None:
            whole = row.part == "lora"
            assert row.trained == row.total if whole else row.trained < 0.01 * row.total
        elif row.stage in ("mid", "mid_16k", "mid_36k", "sft"):
            assert row.trained == row.total


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_recipe_opens_with_what_a_reader_wants_to_know(name: str) -> None:
    head = RECIPES[name].read_text(encoding="utf-8").split("\nrun:")[0]
    for heading in ("# Purpose ", "# Hardware ", "# Expected ", "# Launch "):
        assert heading in head, f"{name}: the opening comment lacks {heading!r}"
    assert f"lightning run {name}" in head
    assert all(line.startswith("#") or not line for line in head.splitlines())


@pytest.mark.parametrize("name", ["neo_ov_2b", "neo_ov_9b"])
def test_neo_ov_trains_as_its_paper_says(name: str) -> None:
    cli, _ = build(name)
    stages = cli.stages
    assert [stages[n].context for n in ("pretrain", "mid_16k", "mid_36k", "sft")] == [16384, 16384, 36864, 36864]
    assert [stages[n].lr for n in ("pretrain", "mid_16k", "mid_36k", "sft")] == [2e-4, 5e-5, 5e-5, 5e-5]
    assert stages["pretrain"].image.max_pixels == 1024**2
    assert stages["sft"].image.max_pixels == 4096**2
    assert all(stage.image.min_pixels == 256**2 for stage in stages.values())
    assert stages["sft"].video.max_frames == 128
    assert list(stages["mid_16k"].mixture.values()) == [2, 4, 1, 1]
    assert stages["mid_36k"].mixture == stages["mid_16k"].mixture
    rows = {name: stage.steps * stage.packs_per_step * stage.row_tokens for name, stage in stages.items()}
    # samples x tokens a sample, by the recipe's own arithmetic, within 1%
    assert rows["pretrain"] == pytest.approx(20e6 * 700, rel=0.01)
    half = 7.5e6 * 600 + 15e6 * 1500 + 3.75e6 * 3000 + 3.75e6 * 8000
    assert rows["mid_16k"] == pytest.approx(half, rel=0.01)
    assert rows["mid_36k"] == pytest.approx(half, rel=0.01)
    assert rows["sft"] == pytest.approx(4e6 * 1500 + 1e6 * 3000 + 1e6 * 8000, rel=0.01)


@pytest.mark.parametrize("name", ["neo_2b", "neo_9b"])
def test_neo_trains_as_its_paper_says(name: str) -> None:
    cli, _ = build(name)
    stages = list(cli.stages.values())
    assert [stage.steps for stage in stages] == [190_000, 50_000, 6_000]
    assert [stage.lr for stage in stages] == [8e-4, 4e-5, 5e-5]
    assert all(0.05 <= stage.min_lr_ratio <= 0.2 for stage in stages)
    per_step = [stage.packs_per_step * stage.row_tokens for stage in stages]
    samples = [tokens / each for tokens, each in zip(per_step, (410, 1750, 3200), strict=True)]
    assert samples == pytest.approx([2560, 1200, 650], rel=0.01)


def test_every_manifest_has_the_sources_that_recipes_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file wherever a pattern looks, each manifest loads and holds what the mixtures of its recipes name."""
    import yaml

    from neo_lightning.data.manifest import load_manifest

    monkeypatch.setenv("NEO_DATA", str(tmp_path))
    loaded = {}
    for name, path in shipped("data_manifests").items():
        for source in yaml.safe_load(path.read_text(encoding="utf-8"))["sources"].values():
            relative = source["shards"].split("}/", 1)[1]
            file = tmp_path / relative.replace("*", "000000")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        loaded[name] = set(load_manifest(path).sources)
    for name, path in RECIPES.items():
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        manifest = recipe["data"]["manifest"]
        sources = loaded["demo" if "${" in manifest else manifest]
        for stage in recipe["stages"].values():
            assert set(stage["mixture"]) <= sources, f"{name}: {stage['mixture']}"


def test_a_folder_does_not_hide_the_manifest_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes say `manifest: neo`; the folder that one stands in may hold a `neo/` of anything."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "neo").mkdir()
    assert build("neo_2b")[0].datamodule.manifest_path == str(shipped("data_manifests")["neo"])
    (tmp_path / "neo" / "manifest.yaml").touch()
    assert build("neo_2b")[0].datamodule.manifest_path == "neo", "which of them is meant is asked"
