"""One item ahead in a thread: order, errors, rest and end; and a plan that is made this way."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from data_helpers import write_tar
from lightning.pytorch import Trainer

from neo_lightning.data import skipped
from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.plan import Plan, PlanError
from neo_lightning.data.rows.ahead import UNDISTURBED, OneAhead
from neo_lightning.data.skipped import Skipped
from neo_lightning.types import Stage

SECONDS = 60
"""Nothing here waits for so long but where it is broken."""


def test_the_next_item_is_made_while_the_caller_works_and_no_more() -> None:
    begun = [threading.Event() for _ in range(4)]
    let = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i in range(4):
            begun[i].set()
            assert let[i].wait(SECONDS)
            yield i

    ahead = OneAhead(items())
    let[0].set()
    assert next(ahead) == 0
    assert begun[1].wait(SECONDS), "while the caller has item 0"
    assert UNDISTURBED.locked(), "no process is forked meanwhile"
    let[1].set()
    ahead.settle()
    assert not UNDISTURBED.locked()
    assert not begun[2].is_set(), "one item in advance"
    assert next(ahead) == 1
    for event in let:
        event.set()
    assert list(ahead) == [2, 3]
    ahead.close()


def test_an_error_comes_where_its_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 0
        yield 1
        raise PlanError("nothing left")

    ahead = OneAhead(items())
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(PlanError, match="nothing left") as caught:
        next(ahead)
    assert any(frame.name == "items" for frame in traceback.extract_tb(caught.value.__traceback__))
    ahead.close()


@pytest.fixture
def data(tmp_path: Path, tokenizer_folder: Path) -> Iterator[NeoDataModule]:
    write_tar(tmp_path / "t.tar", {f"t{i}.json": b'{"text": "left right"}' for i in range(40)})
    (tmp_path / "m.yaml").write_text("sources: {t: {modality: text, shards: t.tar}}")
    only = Stage(steps=50, context=64, packs_per_step=2, mixture={"t": 1}, lr=1e-3)
    yield NeoDataModule(str(tmp_path / "m.yaml"), {"only": only}, str(tokenizer_folder), num_workers=1, prefetch=1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ahead")]


def test_steps_planned_ahead_are_the_same_and_the_position_is_what_was_handed_out(data: NeoDataModule) -> None:
    walk = data.plan.steps(data.plan.start())
    expected = [next(walk) for _ in range(6)]
    planned = data.steps()
    assert list(islice(planned, 5)) == [spec for spec, _ in expected[:5]]
    data.next_step = 3
    assert data.position().to_state() == expected[2][1].to_state()
    assert max(data._positions) == 5, "the sixth is planned, and nobody has it"
    planned.close()  # type: ignore[attr-defined]


def test_a_plan_that_fails_in_its_thread_ends_the_loader_at_its_step(
    data: NeoDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    data.setup()
    steps = Plan.steps

    def failing(plan: Plan, *args: Any, **ranks: int) -> Iterator[Any]:
        yield from islice(steps(plan, *args, **ranks), 3)
        raise PlanError("no usable sample")

    monkeypatch.setattr(Plan, "steps", failing)
    rows, found = iter(data.train_dataloader()), []
    with pytest.raises(PlanError, match="no usable sample"):
        found.extend(rows)
    # one worker and one step ahead of it: the loader asks for the fourth when the third is wanted
    assert len(found) == 2


def test_a_run_on_the_cpu_leaves_a_gpu_alone(data: NeoDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*args: Any) -> None:
        raise AssertionError("a GPU's context was opened")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", touched)
    data.num_workers = 0
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    (row, _) = next(iter(data.train_dataloader()))
    assert not row.input_ids.is_pinned()


def test_what_nobody_takes_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skipped, "KEPT", 2)
    found = Skipped()
    for i in range(5):
        found.add(f"s/{i}", "bad")
    *listed, (_, more) = found.take()
    assert listed == [("s/0", "bad"), ("s/1", "bad")]
    assert more.startswith("3 more")
    assert found.take() == []
    found.add("s/9", "bad")
    assert found.take() == [("s/9", "bad")]


def test_other_ranks_keep_no_list(data: NeoDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_rank_and_world", lambda: (1, 2))
    data.stages = {"only": Stage(steps=1, context=3, packs_per_step=1, mixture={"t": 1}, lr=1e-3)}
    with pytest.raises(PlanError, match="none of the 40 samples"):
        data.setup()
    assert data.skipped.take() == []
    monkeypatch.setattr(data, "_rank_and_world", lambda: (0, 2))
    with pytest.raises(PlanError, match="none of the 40 samples"):
        data.setup()
    assert len(data.skipped.take()) == 40
