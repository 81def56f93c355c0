"""A stage's `lr_scale`: rates per group, a function of the step and of the group alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from rich.console import Console
from safetensors.torch import load_file

from neo_lightning.checkpoint.commit import latest
from neo_lightning.model.neo import Neo
from neo_lightning.training.callbacks.curriculum import render_table
from neo_lightning.training.stages import check_stages, learning_rate, lr_scales, parameter_table
from neo_lightning.types import Stage
from tests.forks import Server
from tests.training.tiny import CONFIG, TinyData, module, stage, trainer

SCALES = {"all": 0.5, "patch_embedding": 0.1, "*.mlp.*": 2.0}
HERE = {"first": stage(2, lr_scale=SCALES), "second": stage(2, trains=("backbone",), lr_scale={"*norm*": 4.0})}


def expected_scale(stage_name: str, name: str) -> float:
    """Written out once more, without groups."""
    if stage_name == "second":
        return 4.0 if "norm" in name else 1.0
    if ".mlp." in name:
        return 2.0
    return 0.1 if name.startswith("vision_model.") else 0.5


def names() -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in Neo(CONFIG).named_parameters()]


def test_of_several_entries_the_last_counts() -> None:
    for stage_name, each in HERE.items():
        assert lr_scales(names(), each, 1) == {name: expected_scale(stage_name, name) for name in names()}
    turned = lr_scales(names(), stage(1, lr_scale={"patch_embedding": 0.1, "all": 0.5}), 1)
    assert set(turned.values()) == {0.5}
    assert set(lr_scales(names(), stage(1), 1).values()) == {1.0}


@pytest.mark.parametrize(
    ("scales", "trains", "said"),
    [
        ({"patch_embeding": 0.1}, ("all",), "Nearest: patch_embedding"),
        ({"*.mpl.*": 0.1}, ("all",), "matches no parameter"),
        ({"patch_embedding": 0.1}, ("backbone",), "no parameter that this stage trains"),
    ],
)
def test_what_holds_nothing_is_refused(scales: dict[str, float], trains: tuple[str, ...], said: str) -> None:
    with torch.device("meta"):
        model = Neo(CONFIG)
    with pytest.raises(ValueError, match="stage 'only': lr_scale") as refused:
        check_stages(model, {"only": stage(1, lr_scale=scales, trains=trains)}, 1)
    assert said in str(refused.value)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_positive_and_finite(scale: float) -> None:
    with pytest.raises(ValueError, match="lr_scale of 'all' must be positive and finite"):
        stage(1, lr_scale={"all": scale})


class AdamW(Callback):
    """The update by hand, from each step's clipped gradients and the rate scheduled for the parameter's group."""

    def __init__(self) -> None:
        self.expected: dict[str, torch.Tensor] = {}
        self.moments: dict[str, tuple[torch.Tensor, torch.Tensor, int]] = {}
        self.steps = 0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.expected = {name: p.detach().clone() for name, p in pl_module.model.named_parameters()}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        step = trainer.global_step
        stage_name = "first" if step < 2 else "second"
        rate = learning_rate(HERE, step)
        for name, parameter in pl_module.model.named_parameters():
            if parameter.grad is None:
                continue
            grad, before = parameter.grad.detach().double(), self.expected[name].double()
            first, second, count = self.moments.get(name, (torch.zeros_like(grad), torch.zeros_like(grad), 0))
            first, second, count = 0.9 * first + 0.1 * grad, 0.95 * second + 0.05 * grad**2, count + 1
            self.moments[name] = first, second, count
            own = rate * expected_scale(stage_name, name)
            decayed = before * (1 - own * (0.01 if parameter.ndim >= 2 else 0.0))
            move = (first / (1 - 0.9**count)) / ((second / (1 - 0.95**count)).sqrt() + 1e-8)
            self.expected[name] = decayed - own * move

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.steps += 1
        assert pl_module.report.lr == learning_rate(HERE, self.steps - 1), "the logged rate is the unscaled one"
        for name, parameter in pl_module.model.named_parameters():
            # float32 moments and weights of magnitude 1: a few units in the last place a step
            torch.testing.assert_close(parameter.detach().double(), self.expected[name].double(), rtol=1e-5, atol=1e-6)


def fit(folder: Path, run: dict[str, Stage], *callbacks: Callback, steps: int = 4, resume: Path | None = None) -> Any:
    net = module(run)
    trainer(folder, *callbacks, steps=steps).fit(net, datamodule=TinyData(run), ckpt_path=resume)
    return {name: p.detach().clone() for name, p in net.model.named_parameters()}  # type: ignore[union-attr]


def test_steps_equal_a_hand_written_adamw_with_each_groups_rate(tmp_path: Path) -> None:
    by_hand = AdamW()
    whole = fit(tmp_path / "whole", HERE, by_hand)
    assert by_hand.steps == 4
    for cut in (1, 2, 3):  # before, at and behind the switch of stages
        fit(tmp_path / str(cut), HERE, steps=cut)
        resumed = fit(tmp_path / str(cut), HERE, resume=latest(tmp_path / str(cut) / "checkpoints"))
        assert all(torch.equal(resumed[name], weights) for name, weights in whole.items()), f"resumed after {cut}"


def test_the_table_of_trained_parameters_shows_the_scales() -> None:
    with torch.device("meta"):
        model = Neo(CONFIG)
    console = Console(width=200, file=io.StringIO())
    console.print(render_table(parameter_table(model, HERE, 1), HERE))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    first, second = (next(line for line in shown.splitlines() if line.strip().startswith(name)) for name in HERE)
    assert "lr x0.1 " in first
    assert "lr x0.5..2" in first
    assert "lr x1..4" in second


@pytest.mark.slow
def test_two_ranks_that_share_the_model_scale_as_one_process(forks: Server, tmp_path: Path) -> None:
    scales = {"hw": 0.25, "patch_embedding": 4.0}  # both stages train them
    weights = {}
    for name, ranks, lr_scale in (("one", 1, scales), ("two", 2, scales), ("unscaled", 1, {})):
        job = {"folder": str(tmp_path / name), "stages": (2, 2), "steps": 4, "lr_scale": lr_scale}
        status, output = forks.run("tests.training.run_tiny:run", ranks, [job], ranks=ranks)
        assert status == 0, output
        weights[name] = load_file(tmp_path / name / "final.safetensors")
    for name, tensor in weights["one"].items():
        torch.testing.assert_close(weights["two"][name], tensor, rtol=1e-4, atol=2e-6, msg=name)
    moved = [name for name, tensor in weights["one"].items() if not torch.allclose(weights["unscaled"][name], tensor)]
    assert any("_hw" in name for name in moved)
    assert any(name.startswith("vision_model.") for name in moved)
