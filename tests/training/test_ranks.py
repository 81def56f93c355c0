"""What ranks send each other in a step; the results of runs on several are compared in `test_restart.py` too."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback

from neo_lightning.training import step
from neo_lightning.training.asking import asked
from neo_lightning.training.module import NeoModule
from neo_lightning.training.strategy import NeoStrategy
from tests.forks import Server

from . import tiny
from .messages import Message, Messages

PACKS = 8
LARGE = 20
"""Elements; the sums of a step's counts and losses have fewer, its gradients more."""


def add_up(ranks: int) -> None:
    """One of the ranks."""
    rank = int(os.environ["LOCAL_RANK"])
    assert step.sum_over_ranks(torch.tensor([2.0])).item() == 2, "before there is a group"
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    total = step.sum_over_ranks(torch.tensor([1.0, 10.0 * rank]))
    assert total.tolist() == [ranks, 10.0 * sum(range(ranks))]
    dist.barrier()


def test_sums_are_over_all_ranks(forks: Server) -> None:
    status, output = forks.run("tests.training.test_ranks:add_up", 3, ranks=3)
    assert status == 0, output


class Watched(NeoModule):
    """Keeps what is sent in each step, and its report."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        with Messages() as messages:
            outputs = super().training_step(batch, batch_idx)
        self.sent = [*getattr(self, "sent", []), messages.seen]
        self.reports = [*getattr(self, "reports", []), outputs["report"]]
        return outputs


class Looks(Callback):
    """Is asked behind every step, and validates: forward passes without backward ones, which leave weights gathered."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        with asked(trainer, pl_module):
            pass
        pl_module.validation_step(batch[:1], 0)


Kept = bool | list[str]


def train(folder: str, ranks: int, shard_size: int | None, keep_gathered: Kept = False, looks: bool = False) -> Watched:
    """A step with a frozen backbone, and two of everything."""
    run = {name: replace(stage, packs_per_step=PACKS) for name, stage in tiny.stages(1, 2).items()}
    net = Watched(run, model=tiny.CONFIG)  # type: ignore[arg-type]
    strategy = NeoStrategy(shard_size=shard_size, keep_gathered=keep_gathered)
    fitter = tiny.trainer(Path(folder), steps=3, save_every=0, devices=ranks, strategy=strategy)
    fitter.callbacks += [Looks()] * looks  # type: ignore[attr-defined]
    data = tiny.TinyData(run)
    data.tokenizer = SimpleNamespace(im_end_id=0, pad_id=0)  # type: ignore[attr-defined]  # nothing is said
    fitter.fit(net, datamodule=data)
    return net


def count_messages(folder: str, ranks: int, shard_size: int, keep_gathered: Kept = False, looks: bool = False) -> None:
    """One of the ranks; writes what it sent."""
    torch.set_num_threads(1)
    net = train(folder, ranks, shard_size, keep_gathered, looks)
    found = [
        {"loss": r.loss, "norm": r.grad_norm, "sent": [asdict(m) for m in s]}
        for r, s in zip(net.reports, net.sent, strict=True)
    ]
    (Path(folder) / f"{net.global_rank}.json").write_text(json.dumps(found))


def elements(messages: list[Message], operator: str) -> list[int]:
    return [m.elements for m in messages if m.operator == operator and m.elements > LARGE]


@pytest.mark.parametrize(("ranks", "shard_size"), [(2, 1), (4, 2)])
def test_gradients_are_summed_over_copies_once_a_step(
    forks: Server, tmp_path: Path, ranks: int, shard_size: int
) -> None:
    """With the last micro-batch, and only what is trained; loss and norm are those of one process."""
    alone = train(str(tmp_path), 1, None).reports
    call = forks.run("tests.training.test_ranks:count_messages", str(tmp_path), ranks, shard_size, ranks=ranks)
    assert call[0] == 0, call[1]
    gathers: list[int] = []
    for rank in range(ranks):
        steps = json.loads((tmp_path / f"{rank}.json").read_text())
        for number, (found, one) in enumerate(zip(steps, alone, strict=True)):
            assert found["loss"] == pytest.approx(one.loss, rel=1e-5)
            assert found["norm"] == pytest.approx(one.grad_norm, rel=1e-4)
            sent = [Message(**message) for message in found["sent"]]
            sums, parts = elements(sent, "allreduce_"), elements(sent, "_reduce_scatter_base_")
            groups = tiny.CONFIG.num_hidden_layers + 1  # each layer, and the root
            micro_batches = PACKS // ranks
            assert len(sums) == groups, f"step {number}: one sum a group, not one a micro-batch"
            assert len(parts) == (groups * micro_batches if shard_size > 1 else 0)
            if shard_size > 1:
                assert [shard_size * n for n in sums] == parts[-groups:], "a rank's part of what was reduced"
                first_sum = sent.index(next(m for m in sent if m.operator == "allreduce_" and m.elements > LARGE))
                before = elements(sent[:first_sum], "_reduce_scatter_base_")
                assert len(before) == groups * (micro_batches - 1) + 1, "between the last micro-batch's reductions"
            gathers.append(sum(sums))
        assert gathers[-3] < gathers[-2] == gathers[-1], "what is frozen is not sent"


@pytest.mark.parametrize("looks", [False, True])
def test_layers_that_stay_gathered_are_gathered_once_a_micro_batch_and_change_no_bit(
    forks: Server, tmp_path: Path, looks: bool
) -> None:
    """In all stages, or in those that are named; also where a validation has left them gathered."""
    found = {}
    for name, kept in (("never", False), ("always", True), ("two", ["mid_training"])):
        (tmp_path / name).mkdir()
        line = (str(tmp_path / name), 2, 2, kept, looks)
        status, output = forks.run("tests.training.test_ranks:count_messages", *line, ranks=2)
        assert status == 0, output
        found[name] = json.loads((tmp_path / name / "0.json").read_text())
    layers, micro_batches = tiny.CONFIG.num_hidden_layers, PACKS // 2
    for number, steps in enumerate(zip(*found.values(), strict=True)):
        assert len({(step["loss"], step["norm"]) for step in steps}) == 1, "the same bits"
        again, always, two = (len(elements([Message(**m) for m in step["sent"]], "_allgather_base_")) for step in steps)
        spared = again - always
        most = layers * micro_batches + (layers if looks else 0)  # what a look has gathered lies there still
        assert (layers - 1) * micro_batches <= spared <= most
        assert again - two == (spared if number else 0), "the first step is another stage's"
        assert always
