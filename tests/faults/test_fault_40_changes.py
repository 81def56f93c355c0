"""Row 40: manifest, tokenizer or recipe changed under a checkpoint are refused, with the difference."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.plan import PlanError
from neo_lightning.data.text.tokenizer import train_tokenizer
from neo_lightning.types import Stage
from tests.data.data_helpers import make_tokenizer, write_tar

ONE = Stage(steps=4, context=128, packs_per_step=2, mixture={"early": 1}, lr=1e-3)
STAGES = {"one": ONE, "two": replace(ONE, steps=9, mixture={"early": 1, "late": 1})}


def shard(folder: Path, name: str, words: str, count: int = 60) -> None:
    write_tar(
        folder / f"{name}.tar",
        {f"{name}{i}.json": json.dumps({"text": f"{words} {i} " * (1 + i % 7)}).encode() for i in range(count)},
    )


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_tokenizer(tmp_path)
    for name in ("early", "late"):
        shard(tmp_path, name, "left right")
    sources = "".join(f"  {name}: {{modality: text, shards: {name}.tar}}\n" for name in ("early", "late"))
    (tmp_path / "m.yaml").write_text(f"sources:\n{sources}")
    return tmp_path


def module(data: Path, stages: dict[str, Stage] | None = None, tokenizer: Path | None = None) -> NeoDataModule:
    return NeoDataModule(str(data / "m.yaml"), stages or STAGES, str(tokenizer or data))


def state(data: Path, step: int) -> dict[str, object]:
    saved = module(data)
    saved.next_step = step
    return json.loads(json.dumps(saved.state_dict()))


def test_fault_40_another_shard_behind_the_steps_done(data: Path) -> None:
    early, late = state(data, 2), state(data, 6)
    shard(data, "late", "another text")
    module(data).load_state_dict(early)  # nothing of it has been drawn
    with pytest.raises(PlanError, match=r"another plan:\n  source late: was \w+, is \w+"):
        module(data).load_state_dict(late)
    shard(data, "early", "another text")
    with pytest.raises(PlanError, match="source early: was"):
        module(data).load_state_dict(early)


def test_fault_40_a_source_that_is_named_no_more(data: Path) -> None:
    late = state(data, 6)
    changed = {"one": ONE, "two": replace(STAGES["two"], mixture={"early": 1})}
    gone_on = module(data, changed)
    gone_on.accept_changes = True
    gone_on.load_state_dict(late)
    assert gone_on.plan.segments[1].end == 6, "its place in what was drawn is known"
    (data / "m.yaml").write_text("sources:\n  early: {modality: text, shards: early.tar}\n")
    gone = module(data, changed)
    gone.accept_changes = True
    with pytest.raises(ValueError, match="no source 'late'"):
        gone.load_state_dict(late)


def test_fault_40_another_tokenizer(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    train_tokenizer(["something else to read, again and again"] * 50, 400, other)
    with pytest.raises(PlanError, match="tokenizer: was"):
        module(data, tokenizer=other).load_state_dict(state(data, 2))


def test_fault_40_another_recipe(data: Path) -> None:
    stands = state(data, 6)
    present = {"one": ONE, "two": replace(STAGES["two"], packs_per_step=3)}
    with pytest.raises(PlanError, match="another kind:\n  stage 'two': packs_per_step was 2, is 3"):
        module(data, present).load_state_dict(stands)
    for accepted in (False, True):
        over = module(data, {"one": replace(ONE, packs_per_step=3), "two": STAGES["two"]})
        over.accept_changes = accepted
        with pytest.raises(PlanError, match="over cannot be changed"):
            over.load_state_dict(stands)
    damaged = {**stands, "digest": "0" * 40}
    with pytest.raises(PlanError, match="damaged"):
        module(data).load_state_dict(damaged)
