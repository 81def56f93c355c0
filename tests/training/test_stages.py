"""The curriculum as a function of the step: stages, rates, and exactly which parameters train."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.model.neo import Neo
from neo_lightning.training.callbacks.curriculum import render_table
from neo_lightning.training.stages import (
    apply_stage,
    check_stages,
    learning_rate,
    parameter_table,
    stage_at,
    stage_ends,
    trained_names,
)

from .tiny import CONFIG, stage, stages

HW = ("q_proj_hw", "k_proj_hw", "q_norm_h", "q_norm_w", "k_norm_h", "k_norm_w")


@pytest.fixture(scope="module")
def model() -> Neo:
    with torch.device("meta"):
        return Neo(CONFIG)


def test_stage_one_trains_exactly_what_the_paper_says(model: Neo) -> None:
    layer = "language_model.model.layers"
    pre_buffer = {name for name, _ in model.named_parameters() if name.startswith(f"{layer}.0.")}
    added = {f"{layer}.{i}.self_attn.{part}.weight" for i in range(CONFIG.num_hidden_layers) for part in HW}
    patches = {
        f"vision_model.embeddings.{part}_embedding.{kind}" for part in ("patch", "dense") for kind in ("weight", "bias")
    }
    wanted = pre_buffer | added | patches
    assert len(pre_buffer) == 17
    apply_stage(model, stages()["pre_training"], CONFIG.extra_num_layers)
    assert {name for name, p in model.named_parameters() if p.requires_grad} == wanted
    apply_stage(model, stages()["mid_training"], CONFIG.extra_num_layers)
    assert all(p.requires_grad for p in model.parameters())


def test_backbone_is_what_the_other_groups_leave(model: Neo) -> None:
    names = {name for name, _ in model.named_parameters()}
    rest = trained_names(names, ["backbone"], 1)
    others = trained_names(names, ["patch_embedding", "pre_buffer", "hw"], 1)
    assert rest | others == names
    assert not rest & others
    # the T norms and projections of the language model belong to it and stay frozen in stage 1
    assert "language_model.model.layers.1.self_attn.q_norm.weight" in rest
    assert "language_model.model.layers.1.self_attn.k_proj.weight" in rest
    assert "language_model.model.embed_tokens.weight" in rest


def test_patterns_and_unknown_names(model: Neo) -> None:
    names = {name for name, _ in model.named_parameters()}
    assert trained_names(names, ["*.mlp.up_proj.weight"], 1) == {
        f"language_model.model.layers.{i}.mlp.up_proj.weight" for i in range(3)
    }
    with pytest.raises(ValueError, match=r"stage 'x': trains: 'pre_bufer' .*Nearest: pre_buffer"):
        check_stages(model, {"x": stage(1, trains=("pre_bufer",))}, 1)
    with pytest.raises(ValueError, match="holds no parameter"):
        check_stages(model, {"x": stage(1, trains=("pre_buffer",))}, 0)


def test_table_adds_up_to_the_model(model: Neo) -> None:
    run = stages()
    rows = parameter_table(model, run, 1)
    total = sum(p.numel() for p in model.parameters())
    for name in run:
        assert sum(row.total for row in rows if row.stage == name) == total
    trained = {row.part: row.trained for row in rows if row.stage == "pre_training"}
    assert trained["backbone"] == 0
    assert all(trained[part] > 0 for part in ("patch_embedding", "pre_buffer", "hw"))
    assert render_table(rows, run).row_count == 2


def test_stage_of_a_step() -> None:
    run = stages(4, 8)
    assert [stage_at(run, step)[0] for step in (0, 3, 4, 11, 99)] == ["pre_training"] * 2 + ["mid_training"] * 3
    assert [stage_at(run, step)[2] for step in (0, 3, 4, 11)] == [0, 3, 0, 7]
    assert stage_ends(run) == {4: "pre_training", 12: "mid_training"}
    with pytest.raises(ValueError, match="no stage"):
        stage_at({}, 0)


def test_learning_rate_at_known_steps() -> None:
    run = {
        "a": stage(100, lr=1.0, warmup_ratio=0.1, min_lr_ratio=0.2),
        "b": stage(11, lr=0.5, warmup_ratio=0.0, min_lr_ratio=0.0),
    }
    assert learning_rate(run, 0) == pytest.approx(0.1)
    assert learning_rate(run, 9) == pytest.approx(1.0)  # last warm-up step
    assert learning_rate(run, 10) == pytest.approx(1.0)  # the cosine starts at the peak
    middle = [learning_rate(run, step) for step in (54, 55)]
    assert sum(middle) / 2 == pytest.approx(0.6)  # half-way between the peak and the minimum
    assert learning_rate(run, 99) == pytest.approx(0.2)  # last step of the stage
    assert learning_rate(run, 100) == pytest.approx(0.5)  # the next stage starts anew
    assert learning_rate(run, 105) == pytest.approx(0.25)
    assert learning_rate(run, 110) == pytest.approx(0.0)
    assert learning_rate({"only": stage(1, lr=2.0, warmup_ratio=0.01)}, 0) == pytest.approx(2.0)
