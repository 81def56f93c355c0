"""Arms in training: what a stage trains of them, where a re-used pre-buffer comes from, and several ranks."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from neo_lightning.checkpoint.export import export_model
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo
from neo_lightning.training.build import Init, build_model
from neo_lightning.training.module import NeoModule
from neo_lightning.training.stages import trained_names
from neo_lightning.training.strategy import NeoStrategy
from tests.forks import Server

from . import tiny

ARM = {
    "modality_weights": {"parts": ["norm", "qkv", "o", "ffn"]},
    "encoder": {"layers": 1, "hidden_size": 8, "intermediate_size": 8, "heads": 2, "table": 2},
}
"""What some rank could pass by where a row has no picture: an encoder, and weights of visual tokens' own."""


def names_of(config: NeoConfig) -> list[str]:
    with torch.device("meta"):
        return [name for name, _ in Neo(config).named_parameters()]


def test_what_a_minus_names_is_taken_out() -> None:
    names = names_of(tiny.CONFIG)
    everything, front = trained_names(names, ["all"], 1), trained_names(names, ["pre_buffer"], 1)
    assert trained_names(names, ["-pre_buffer", "all"], 1) == everything - front
    assert front
    with pytest.raises(ValueError, match="'pre_bufer' is no group"):
        trained_names(names, ["all", "-pre_bufer"], 1)


def test_groups_of_an_arm() -> None:
    names = names_of(replace(tiny.CONFIG, design=ARM))
    encoder, visual = (trained_names(names, [group], 1) for group in ("encoder", "visual"))
    patch, backbone = (trained_names(names, [group], 1) for group in ("patch_embedding", "backbone"))
    assert all(".encoder." in name for name in encoder)
    assert all(".projector." in name for name in patch)
    assert len(visual) == sum(".visual." in name for name in names) > 30
    assert not backbone & (visual | encoder | patch)
    lora = names_of(replace(tiny.CONFIG, design={"vision_lora": {"rank": 2}}))
    assert len(trained_names(lora, ["visual"], 1)) == 2 * 7 * tiny.CONFIG.num_hidden_layers


def built(config: NeoConfig, init: Init, **options: Any) -> Neo:
    return build_model(config, init, stages={}, device=torch.device("cpu"), **options)


def test_a_pre_buffer_is_taken_from_another_run(tmp_path: Path) -> None:
    other = built(tiny.CONFIG, Init(seed=1))
    export_model(other, tiny.CONFIG, tmp_path)
    config = replace(tiny.CONFIG, num_hidden_layers=5, vocab_size=99)
    mine = built(config, Init(seed=2, pre_buffer=str(tmp_path)))
    fresh = built(config, Init(seed=2))
    theirs, plain = dict(other.named_parameters()), dict(fresh.named_parameters())
    for name, parameter in mine.named_parameters():
        taken = name.startswith("vision_model.") or ".layers.0." in name
        assert torch.equal(parameter, theirs[name] if taken else plain[name]), name


def test_a_pre_buffer_of_another_kind_is_refused(tmp_path: Path) -> None:
    export_model(built(tiny.CONFIG, Init()), tiny.CONFIG, tmp_path)
    wide = replace(tiny.CONFIG, hidden_size=32, extra_num_layers=2)
    with pytest.raises(ValueError, match="hidden_size: 16 there, 32 here; extra_num_layers: 1 there, 2 here"):
        built(wide, Init(pre_buffer=str(tmp_path)))
    arm = replace(tiny.CONFIG, design={"rope": {"kind": "1d"}})
    with pytest.raises(ValueError, match="has another pre-buffer; design: "):
        built(arm, Init(pre_buffer=str(tmp_path)))


def test_layers_whose_shapes_move_are_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile_blocks: layers with weights of the visual tokens' own"):
        built(replace(tiny.CONFIG, design=ARM), Init(), compile_blocks=True)


def train(folder: str, ranks: int, shard_size: int | None) -> list[tuple[float, float]]:
    """(loss, gradient norm) of four steps, two with the language model frozen; every third row has no picture."""

    class Told(NeoModule):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            outputs = super().training_step(batch, batch_idx)
            told.append((outputs["report"].loss, outputs["report"].grad_norm))
            return outputs

    told: list[tuple[float, float]] = []
    run = tiny.stages(2, 2)
    run["pre_training"] = replace(run["pre_training"], trains=("patch_embedding", "encoder", "visual"))
    net = Told(run, model=replace(tiny.CONFIG, design=ARM))  # type: ignore[arg-type]
    strategy = NeoStrategy(shard_size=shard_size)
    fitter = tiny.trainer(Path(folder), steps=4, save_every=0, devices=ranks, strategy=strategy)
    fitter.fit(net, datamodule=tiny.TinyData(run))
    return told


def train_on_a_rank(folder: str, ranks: int) -> None:
    """One of the ranks; rank 0 writes what it was told."""
    torch.set_num_threads(1)
    told = train(folder, ranks, ranks)
    if os.environ["LOCAL_RANK"] == "0":
        (Path(folder) / "told.json").write_text(json.dumps(told))


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one(forks: Server, tmp_path: Path) -> None:
    """Also where one rank has a picture and the other none."""
    alone = train(str(tmp_path / "one"), 1, None)
    status, output = forks.run("tests.training.test_design:train_on_a_rank", str(tmp_path), 2, ranks=2)
    assert status == 0, output
    together = json.loads((tmp_path / "told.json").read_text())
    assert [loss for loss, _ in together] == pytest.approx([loss for loss, _ in alone], rel=1e-5)
    assert [norm for _, norm in together] == pytest.approx([norm for _, norm in alone], rel=1e-4)
