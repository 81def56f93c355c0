"""An evaluation that is killed, resumed or split gives the same scores; its processes and answers are real ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neo_lightning.answering import Answering, write_folder
from neo_lightning.model.config import NeoConfig
from tests.forks import Server

from .conftest import SMALL, random_model
from .data import choices, write_tsv

ROWS = 11
BATCH = 2


@pytest.fixture(scope="module")
def line(config: NeoConfig, tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An evaluation that draws its answers; one row has a picture that is none."""
    folder = tmp_path_factory.mktemp("eval")
    write_folder(random_model(config, 0), folder / "model", tokenizer_folder, Answering(image=SMALL))
    rows = choices(ROWS)
    rows[3]["image"] = "bm90IGEgcGljdHVyZQ==" * 8
    data = write_tsv(folder / "MMStar.tsv", rows)
    budget = f"--min-pixels {SMALL.min_pixels} --max-pixels {SMALL.max_pixels} --max-new-tokens 6 --batch-size {BATCH}"
    return ["--model", str(folder / "model"), "--benchmark", "mmstar", "--data", str(data), *budget.split()]


@pytest.fixture(scope="module")
def whole(line: list[str], forks: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an evaluation that nothing interrupts."""
    out = tmp_path_factory.mktemp("whole") / "out"
    status, said = forks.run("tests.evaluation.run_eval:evaluate", [*line, "--out", str(out)])
    assert status == 0, said
    assert "not whole: MMStar: 1 of 11 rows are not in the score" in said
    return out


def test_answers_are_drawn_and_every_row_is_accounted_for(whole: Path) -> None:
    result = json.loads((whole / "scores.json").read_text())["benchmarks"]["mmstar"]
    assert (result["questions"], result["rows"], result["unread"]["total"]) == (ROWS - 1, ROWS, 1)
    assert result["settings"]["decoding"]["temperature"] == 0.6
    assert [entry["key"] for entry in result["unread"]["first"]] == ["3"]
    lines = [json.loads(text) for text in (whole / "mmstar" / "answers-0.jsonl").read_text().splitlines()]
    assert [record["key"] for record in lines] == [str(i) for i in range(ROWS)]
    assert len({record["answer"] for record in lines if "answer" in record}) > 3


@pytest.mark.parametrize("batches", [1, 3])
def test_killed_and_resumed_is_never_killed(
    batches: int, line: list[str], whole: Path, forks: Server, tmp_path: Path
) -> None:
    argv = [*line, "--out", str(tmp_path / "out")]
    status, _ = forks.run("tests.evaluation.run_eval:evaluate", argv, batches)
    assert status == -9
    file = tmp_path / "out" / "mmstar" / "answers-0.jsonl"
    text = file.read_bytes()
    assert text.count(b"\n") == batches * BATCH
    assert text.endswith(b'"answ'), "the kill has cut a line"
    assert not (tmp_path / "out" / "scores.json").exists()
    status, said = forks.run("tests.evaluation.run_eval:evaluate", argv)
    assert status == 0, said
    assert (tmp_path / "out" / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    keys = [json.loads(record)["key"] for record in file.read_text().splitlines()]
    again = ["3"] if batches * BATCH > 3 else []
    assert sorted(keys, key=int) == sorted([*map(str, range(ROWS)), *again], key=int), "only what failed is asked again"


def test_two_processes_are_one(line: list[str], whole: Path, forks: Server, tmp_path: Path) -> None:
    argv = [*line, "--out", str(tmp_path / "out")]
    status, said = forks.run("tests.evaluation.run_eval:evaluate_as_rank", argv, 2, ranks=2)
    assert status == 0, said
    folder = tmp_path / "out" / "mmstar"
    counts = [len((folder / f"answers-{rank}.jsonl").read_text().splitlines()) for rank in range(2)]
    assert counts == [6, 5]
    assert (tmp_path / "out" / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()
    # what two have answered, one can finish
    (folder / "answers-1.jsonl").unlink()
    status, said = forks.run("tests.evaluation.run_eval:evaluate", argv)
    assert status == 0, said
    assert (tmp_path / "out" / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_what_refuses_one_process_is_said_by_all(line: list[str], whole: Path, forks: Server, tmp_path: Path) -> None:
    """The first process finds answers to other settings; the second has nothing to object to, and must not wait."""
    argv = [*line, "--seed", "1", "--out", str(whole)]
    status, said = forks.run("tests.evaluation.run_eval:note_status_as_rank", argv, 2, str(tmp_path), ranks=2)
    assert status == 0, said
    assert [(tmp_path / f"status-{rank}").read_text() for rank in range(2)] == ["2", "2"], said
    assert said.count("holds answers that were given otherwise: seed: 0 -> 1") == 2
    assert said.count("rank 0: ") == 1
