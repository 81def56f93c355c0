"""Composing recipes and refusing mistyped keys: no Lightning needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from neo_lightning.cli import keys, recipe
from neo_lightning.cli.arguments import parse
from neo_lightning.cli.environment import launcher_overrides
from neo_lightning.cli.errors import UserError
from neo_lightning.types import Stage

BASE = """
run: {name: a, dir: 'runs/${run.name}'}
stages:
  one: {steps: 10, context: 128, packs_per_step: 2, mixture: {text: 1, image: 3}, lr: 1e-3}
  two: {steps: 20, context: 128, packs_per_step: 2, mixture: {text: 1}, lr: 1e-3, image: {min_pixels: 1024}}
evaluation:
  - {class_path: a.B, init_args: {x: 1}}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    file = tmp_path / "base.yaml"
    file.write_text(BASE, encoding="utf-8")
    return file


def test_a_second_file_changes_what_it_names_and_nothing_else(base: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text("stages: {two: {lr: 5e-5, mixture: {image: 1}}}\nevaluation: []", encoding="utf-8")
    composed = parse([str(base), "--config", str(more)]).recipe
    assert list(composed["stages"]) == ["one", "two"]
    assert composed["stages"]["one"]["steps"] == 10
    assert composed["stages"]["two"]["lr"] == pytest.approx(5e-5)
    assert composed["stages"]["two"]["mixture"] == {"image": 1}, "mixtures are replaced, or no source could be removed"
    assert composed["stages"]["two"]["image"] == {"min_pixels": 1024}
    assert composed["evaluation"] == []
    assert composed["run"]["dir"] == "runs/${run.name}", "resolved only after composition"


def test_the_command_line_reaches_into_stages(base: Path) -> None:
    line = [str(base), "--stages.one.lr=1e-5", "--stages.one.mixture.video=2", "--stages.two=null", "--trainer.x=1"]
    found = parse(line)
    assert found.recipe["stages"] == {
        "one": {
            "steps": 10,
            "context": 128,
            "packs_per_step": 2,
            "mixture": {"text": 1, "image": 3, "video": 2},
            "lr": 1e-5,
        }
    }
    assert found.overrides[-1] == "--trainer.x=1"


def test_an_object_of_another_class_does_not_inherit_arguments() -> None:
    merged = recipe.merge(
        {"a": {"class_path": "x.A", "init_args": {"p": 1}}, "b": {"class_path": "x.B", "init_args": {"p": 1}}},
        {"a": {"class_path": "x.Z", "init_args": {"q": 2}}, "b": {"init_args": {"q": 2}}},
    )
    assert merged["a"] == {"class_path": "x.Z", "init_args": {"q": 2}}
    assert merged["b"] == {"class_path": "x.B", "init_args": {"p": 1, "q": 2}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: 1\na: 2", "duplicate key"),
        ("- 1\n- 2", "expected a mapping"),
        ("a: [1", "not a valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not a valid YAML"),
    ],
)
def test_a_broken_recipe_is_refused(content: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"r\.yaml") as error:
        parse([str(file)])
    assert said in str(error.value)


def test_an_unknown_recipe_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'neo_ov_2b'"):
        recipe.find("neo_ov2b")
    with pytest.raises(UserError, match=r"no recipe given.*demo"):
        parse(["--trainer.max_steps=3"])


class Plain:
    def __init__(self, alpha: int = 1, budget: dict[str, Stage] | None = None) -> None: ...


class Child(Plain):
    def __init__(self, beta: int = 1, **kwargs: Any) -> None: ...


class Anything:
    def __init__(self, **kwargs: Any) -> None:
        kwargs.clear()


ROOTS = {"stages": dict[str, Stage], "model": keys.Arguments(Plain), "objects": list[Plain] | None, "free": Any}


@pytest.mark.parametrize(
    ("content", "wrong", "right"),
    [
        ("stagez: {}", "stagez", "stages"),
        ("stages:\n  a:\n    warmup_ration: 0.1", "stages.a.warmup_ration", "warmup_ratio"),
        ("stages: {a: {image: {max_pixel: 3}}}", "stages.a.image.max_pixel", "max_pixels"),
        ("model: {alhpa: 1}", "model.alhpa", "alpha"),
        ("model: {budget: {x: {step: 1}}}", "model.budget.x.step", "steps"),
        ("objects: [{class_path: test_recipe.Child, init_arg: {}}]", "objects.0.init_arg", "init_args"),
        ("objects: [{class_path: test_recipe.Child, init_args: {betta: 1}}]", "objects.0.init_args.betta", "beta"),
        ("objects: [{class_path: test_recipe.Child, init_args: {alphq: 1}}]", "objects.0.init_args.alphq", "alpha"),
        ("objects: [{class_path: test_recipe.Chidl}]", "Chidl", "Child"),
    ],
)
def test_a_mistyped_key_is_refused_with_file_line_and_nearest(
    content: str, wrong: str, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "test_recipe", __import__("sys").modules[__name__])
    with pytest.raises(UserError) as error:
        keys.check_recipe(content, "my.yaml", ROOTS)
    said = str(error.value)
    assert f"my.yaml, line {content.count(chr(10)) + 1}" in said
    assert f"'{wrong}'" in said
    assert f"Did you mean '{right}'?" in said


@pytest.mark.parametrize(
    "content",
    [
        "stages: {a: {lr: 1, mixture: {any_source_name: 1}, video: {fps: null}}}",
        "objects: [{class_path: test_recipe.Child, init_args: {alpha: 1, beta: 2}}]",
        "objects: [{class_path: test_recipe.Anything, init_args: {whatever: 1}}]",
        "free: {what: {ever: 1}}",
    ],
)
def test_right_keys_pass(content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "test_recipe", __import__("sys").modules[__name__])
    keys.check_recipe(content, "my.yaml", ROOTS)


def test_a_launcher_decides_over_the_recipe() -> None:
    assert launcher_overrides({}) == []
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "4", "WORLD_SIZE": "8"}
    assert launcher_overrides(torchrun) == ["--trainer.devices=4", "--trainer.num_nodes=2"]
    fabric = {
        "LT_CLI_USED": "1",
        "LT_DEVICES": "2",
        "LT_NUM_NODES": "1",
        "LT_STRATEGY": "auto",
    }
    assert launcher_overrides({**torchrun, **fabric}) == [
        "--trainer.devices=2",
        "--trainer.num_nodes=1",
    ]
