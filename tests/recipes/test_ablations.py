"""Every shipped sweep is read, and the recipe of each of its arms is composed, checked and built."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import yaml

from neo_lightning.cli.arguments import parse
from neo_lightning.cli.errors import UserError
from neo_lightning.cli.parser import NeoCLI
from neo_lightning.cli.recipe import find, shipped
from neo_lightning.sweep.definition import read_sweep
from neo_lightning.sweep.jobs import Job, arguments
from neo_lightning.training.build import network
from neo_lightning.training.stages import check_stages

HERE = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1"]
SWEEPS = {name: read_sweep(file) for name, file in shipped("recipes/ablations").items()}
ARMS = [pytest.param(name, job, id=f"{name}-{job.arm}") for name, s in SWEEPS.items() for job in s.jobs[: len(s.arms)]]


def compose(name: str, job: Job) -> NeoCLI:
    return NeoCLI(parse([*arguments(job, find(SWEEPS[name].recipe)), *HERE]))


@pytest.mark.parametrize(("name", "job"), ARMS)
def test_an_arm_builds_its_network_and_its_stages_fit(name: str, job: Job) -> None:
    cli = compose(name, job)
    assert cli.settings.dir == str(job.folder)
    assert cli.config["seed_everything"] == job.seed
    with torch.device("meta"):
        model = network(cli.model.config, cli.model.lora)
    check_stages(model, cli.stages, cli.model.config.extra_num_layers)


@pytest.mark.parametrize("name", SWEEPS)
@pytest.mark.parametrize("key", ["stages.sft.lrr", "stages.stf.lr", "model.model.depth", "evaluations"])
def test_a_key_that_there_is_not_is_seen(name: str, key: str) -> None:
    job = SWEEPS[name].jobs[0]
    with pytest.raises((UserError, ValueError), match=r"stages|depth|evaluations"):
        compose(name, replace(job, overrides={**job.overrides, key: 1}))


@pytest.mark.parametrize("name", SWEEPS)
def test_it_opens_with_what_it_asks_and_how_it_is_started(name: str) -> None:
    head = shipped("recipes/ablations")[name].read_text(encoding="utf-8").split("\nrecipe:")[0]
    for heading in ("# Question ", "# Source ", "# Leaves out ", "# Launch "):
        assert heading in head, f"{name}: the opening comment lacks {heading!r}"
    assert f"lightning sweep {name}" in head
    assert yaml.safe_load(head) is None
