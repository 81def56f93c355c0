"""Real ranks (processes with gloo) and real workers on real shards: one sequence of rows, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from neo_lightning.checkpoint.shards import ShardReader
from tests.data.data_helpers import chat, encoded, make_tokenizer, picture, write_tar
from tests.forks import Server


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sources, their manifest and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    make_tokenizer(folder)
    text, image, pairs = {}, {}, {}
    for i in range(30):
        text[f"t{i}.json"] = json.dumps({"text": f"left {i} right " * (1 + i % 7)}).encode()
        image[f"i{i}.json"] = chat("<image>\nWhat?", f"number {i}")
        image[f"i{i}.{'jpg' if i % 2 else 'png'}"] = encoded(picture(40 + i, 64, i), "JPEG" if i % 2 else "PNG")
    for i in range(8):
        pairs[f"p{i}.0.png"], pairs[f"p{i}.1.png"] = (encoded(picture(64, 32, i + n)) for n in (0, 50))
        pairs[f"p{i}.json"] = chat("<image><image>same?", "no")
    for name, members in (("text", text), ("image", image), ("pairs", pairs)):
        write_tar(folder / f"{name}.tar", members)
    (folder / "m.yaml").write_text(
        "sources:\n"
        "  text: {modality: text, shards: text.tar}\n"
        "  image: {modality: image, shards: image.tar}\n"
        "  pairs: {modality: multi_image, shards: pairs.tar}\n"
    )
    return folder


def packs(folder: Path) -> list[tuple[int, int, str]]:
    """(step, index, digest) of all rows that any rank trained on, in the plan's order."""
    lines = [line.split() for file in folder.glob("packs-*.txt") for line in file.read_text().splitlines()]
    return sorted((int(step), int(index), digest) for step, index, digest in lines)


def losses(folder: Path) -> dict[int, float]:
    """Step -> loss."""
    lines = (line.split() for line in (folder / "losses.txt").read_text().splitlines())
    return {int(step): float(loss) for step, loss in lines}


def processes(forks: Server, ranks: int, *jobs: dict[str, object]) -> None:
    """Runs, one after the other, on so many processes."""
    status, output = forks.run("tests.training.run_real:run", ranks, jobs, ranks=ranks)
    assert status == 0, output


@pytest.fixture(scope="module")
def runs(forks: Server, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of runs on one rank: nine steps at once, in two parts with other workers, and the first three only."""
    folder = tmp_path_factory.mktemp("runs")

    def job(name: str, **options: object) -> dict[str, object]:
        return {"data": str(data), "folder": str(folder / name), **options}

    processes(
        forks,
        1,
        job("straight"),
        job("one_then_four", workers=1, steps=6),
        job("one_then_four", workers=4, resume=True),
        job("four_then_none", workers=4, steps=6),
        job("four_then_none", resume=True),
        job("elastic", steps=3),
    )
    assert len(set(losses(folder / "straight").values())) == 9, "losses can tell steps apart"
    return folder


@pytest.mark.parametrize("name", ["one_then_four", "four_then_none"])
def test_workers_and_a_restart_change_no_bit_of_losses_and_weights(runs: Path, name: str) -> None:
    straight = runs / "straight"
    assert packs(runs / name) == packs(straight)
    assert losses(runs / name) == losses(straight)
    last, same = (folder / "checkpoints" / "step-00000009" for folder in (runs / name, straight))
    read, expected = ShardReader(last), ShardReader(same)
    assert read.shapes == expected.shapes
    assert all(torch.equal(read.read(n), expected.read(n)) for n in read.shapes if not n.startswith("random/"))


@pytest.mark.slow
def test_restarts_on_1_3_and_2_ranks_train_on_the_same_rows(forks: Server, data: Path, runs: Path) -> None:
    folder, straight = runs / "elastic", runs / "straight"
    assert len(losses(folder)) == 3
    job: dict[str, object] = {"data": str(data), "folder": str(folder), "resume": True}
    processes(forks, 3, {**job, "steps": 6, "workers": 1})  # across the boundary of the stages
    processes(forks, 2, {**job, "workers": 2})
    assert len(list(folder.glob("packs-*.txt"))) == 3, "every rank had rows"
    assert packs(folder) == packs(straight)
    assert [index for _, index, _ in packs(folder)] == list(range(4 * 2 + 5 * 5))
    for step, loss in losses(folder).items():
        assert loss == pytest.approx(losses(straight)[step], rel=1e-4), "ranks add up in another order"


@pytest.mark.slow
def test_two_ranks_validate_as_one(forks: Server, data: Path, tmp_path: Path) -> None:
    """By source, with a number of rows that two ranks do not share evenly; all ranks know all losses."""
    found = {}
    for ranks in (1, 2):
        folder, sources = tmp_path / str(ranks), ["image", "text", "pairs"]
        processes(forks, ranks, {"data": str(data), "folder": str(folder), "steps": 3, "validation": sources})
        each = [file.read_text().splitlines() for file in sorted(folder.glob("validation-*.txt"))]
        assert len(each) == ranks
        assert all(lines == each[0] for lines in each)
        found[ranks] = {name: float(loss) for _, name, loss in map(str.split, each[0])}
    assert set(found[1]) == {"val_loss", "val_loss/image", "val_loss/text", "val_loss/pairs"}
    assert len(set(found[1].values())) == 4, "losses can tell sources apart"
    assert found[2] == pytest.approx(found[1], rel=1e-6), "a mean of the ranks' means differs by 5e-5"
