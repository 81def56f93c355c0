"""Real trainings in which ranks share rows: one sequence of losses and weights, however many share them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from neo_lightning.checkpoint.shards import ShardReader
from neo_lightning.training.strategy import NeoStrategy
from neo_lightning.types import Stage
from tests.forks import Server

from . import run_real, run_tiny
from .test_elastic import data, losses  # noqa: F401

SOURCES = ["image", "text", "pairs"]


def stages() -> dict[str, Stage]:
    """Rows that neither 2 nor 4 divide; three in a step are not as many for two groups."""
    text, mixed = run_real.stages().values()
    return {
        "text": replace(text, steps=2, row=259),
        "mixed": replace(mixed, steps=4, row=391, packs_per_step=3),
    }


def run(ranks: int, jobs: list[dict[str, Any]]) -> None:
    """Trainings one after the other, each of which answers at its end, sharded."""
    torch.set_num_threads(1)
    for job in jobs:
        sizes = {name: job.pop(name, default) for name, default in (("shard_size", None), ("sequence_size", 1))}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        net = run_real.train(ranks=ranks, run_stages=stages(), strategy=NeoStrategy(**sizes), **heads, **job)
        answers = run_tiny.answer(net)
        if isinstance(net, FSDPModule):
            net.reshard()  # gathered copies lie in the parameters' places
        counts = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in net.parameters())
        (Path(job["folder"]) / "answers.json").write_text(json.dumps([answers, counts]))


def processes(forks: Server, ranks: int, *jobs: dict[str, object]) -> None:
    status, output = forks.run("tests.training.test_sequence_runs:run", ranks, jobs, ranks=ranks)
    assert status == 0, output


@pytest.fixture(scope="module")
def runs(forks: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Folders of runs: all steps on one rank; on two and four that share rows; on one, two, four and one of them."""
    folder = tmp_path_factory.mktemp("runs")

    def job(name: str, **options: object) -> dict[str, object]:
        return {"data": str(data), "folder": str(folder / name), "steps": 6, "validation": SOURCES, **options}

    processes(forks, 1, job("alone"), job("elastic", steps=2))
    two = {"sequence_size": 2, "workers": 1}
    processes(forks, 2, job("two", sequence_size=2), job("elastic", steps=3, resume=True, **two))
    elastic = job("elastic", steps=5, resume=True, sequence_size=4)
    processes(forks, 4, job("two of two", sequence_size=2, shard_size=2), job("four", sequence_size=4), elastic)
    processes(forks, 1, job("elastic", resume=True))
    return folder


NAMES = ["two", "two of two", "four", "elastic"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_losses_are_those_of_one_rank(runs: Path, name: str) -> None:
    expected = losses(runs / "alone")
    assert len(set(expected.values())) == 6, "losses can tell steps apart"
    assert losses(runs / name) == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_weights_and_moments_are_those_of_one_rank(runs: Path, name: str) -> None:
    read, expected = (ShardReader(runs / n / "checkpoints" / "step-00000006") for n in (name, "alone"))
    tensors = [n for n in expected.shapes if not n.startswith("random/")]
    assert {n for n in read.shapes if not n.startswith("random/")} == set(tensors)
    for tensor in tensors:
        torch.testing.assert_close(read.read(tensor), expected.read(tensor), rtol=1e-2, atol=3e-4, msg=tensor)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_validation_by_source_is_that_of_one_rank(runs: Path, name: str) -> None:
    def said(file: Path) -> dict[str, float]:
        lines = map(str.split, file.read_text().splitlines())
        return {
            f"{step} {what}": float(loss) for step, what, loss in lines if int(step)
        }  # 0: two rows a group, no more

    expected = said(runs / "alone" / "validation-0.txt")
    assert {key.split()[1] for key in expected} == {"val_loss", *(f"val_loss/{source}" for source in SOURCES)}
    files = sorted((runs / name).glob("validation-*.txt"))
    assert len(files) == {"two": 2, "elastic": 2}.get(name, 4)  # elastic: validated after steps 3 and 6
    for file in files:
        found = said(file)
        assert found
        assert found == pytest.approx({key: expected[key] for key in found}, rel=1e-4)


@pytest.mark.slow
def test_answers_are_those_of_one_rank_and_weights_lie_once_in_a_line(runs: Path) -> None:
    (expected, whole), *others = (json.loads((runs / n / "answers.json").read_text()) for n in ("alone", *NAMES[:3]))
    assert len(expected[0]) == 6
    for (answers, own), ranks in zip(others, (2, 2, 4), strict=True):
        assert answers == expected
        assert own == pytest.approx(whole / ranks, rel=0.1), "sharded over shard x sequence"
