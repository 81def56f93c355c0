"""A benchmark as an evaluation of a recipe: its scores are those of `neo-lightning eval`'s parts, on any ranks."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from neo_lightning.answering import Engine, Ranks
from neo_lightning.evaluation import BenchmarkEvaluation, EvaluationContext
from tests.answering.conftest import engine, folder

__all__ = ["engine", "folder"]


@pytest.fixture
def rows(engine: Engine, tmp_path: Path) -> Path:
    """Seven questions about pictures of two colours, of which the model's own answers to four are the right ones, and
    one whose picture is not there."""
    lines = []
    for number in range(7):
        picture = tmp_path / f"{number}.png"
        Image.new("RGB", (64 + 16 * number, 64), (30 * number, 80, 200)).save(picture)
        question = f"What is number {number}?"
        answer = engine.answer(f"<image>\n{question}", images=[picture], max_new_tokens=4).strip()
        right = answer if number < 4 else "nothing of the kind"
        category = "first" if number < 2 else "second"
        lines.append({"question": question, "answer": right, "image": picture.name, "category": category})
    lines.append({"question": "And this?", "answer": "none", "image": "missing.png", "category": "second"})
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps({"index": n, **line}) + "\n" for n, line in enumerate(lines)))
    return file


def test_scores_count_what_could_be_asked(engine: Engine, rows: Path) -> None:
    evaluation = BenchmarkEvaluation(str(rows), max_new_tokens=4, batch_size=3)
    assert evaluation.size() == 8
    assert evaluation.scores(engine, Ranks()) == {"exact match": 4 / 7, "first": 1.0, "second": 2 / 5}


def test_the_end_says_interval_and_what_is_missing(context: EvaluationContext, engine: Engine, rows: Path) -> None:
    evaluation = BenchmarkEvaluation(str(rows), max_new_tokens=4, name="own")
    found = evaluation.run(context)
    assert (found["questions"], found["rows not asked"]) == (7, 1)
    assert found["metric"] == "exact match"
    low, high = map(float, found["95% interval"].split(" to "))
    assert low < found["exact match"] < high or found["exact match"] in (0.0, 1.0)


def test_an_asking_holds_a_batch_of_rows_and_not_the_file(engine: Engine, tmp_path: Path) -> None:
    """Rows of a table hold their pictures as text: those of a batch may be in memory, those of all may not."""
    rows = 24
    megabyte = base64.b64encode(_noise(8, 600)).decode()
    lines = [f"{n}\tWhich?\tx\t{megabyte}" for n in range(rows)]
    (tmp_path / "large.tsv").write_text("index\tquestion\tanswer\timage\n" + "\n".join(lines) + "\n")
    evaluation = BenchmarkEvaluation(str(tmp_path / "large.tsv"), max_new_tokens=1, batch_size=2)
    evaluation.check()
    tracemalloc.start()
    evaluation.scores(engine, Ranks())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows * len(megabyte) / 2, f"{peak / len(megabyte):.1f} rows at a time"


def _noise(seed: int, side: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def test_ranks_answer_each_question_once(engine: Engine, rows: Path) -> None:
    evaluation = BenchmarkEvaluation(str(rows), max_new_tokens=4, batch_size=2)
    answers = [answer for rank in range(3) for answer in evaluation._answers(engine, Ranks(rank=rank, count=3))]
    assert sorted(place for place, _ in answers) == [*range(7)], "the eighth has no picture"
    assert dict(answers) == dict(evaluation._answers(engine, Ranks()))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"benchmark": "mmvet"}, "judge"),
        ({"benchmark": "mmstar", "source": "x"}, "not both"),
        ({"every_n_steps": -1}, "every_n_steps"),
        ({"metric": "exakt"}, "no metric 'exakt'"),
    ],
)
def test_what_cannot_be_asked_is_refused(rows: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        BenchmarkEvaluation(str(rows), **arguments)


def test_data_without_a_question_are_refused_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text('{"index": 0, "question": "And?"}\n')
    with pytest.raises(ValueError, match=r"holds no question; the first: .*empty\.jsonl"):
        BenchmarkEvaluation(str(tmp_path / "empty.jsonl")).check()
