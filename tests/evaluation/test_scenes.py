"""The whole way: held-out shards -> answers of a real (random) model -> counts, controls, export check, report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.answering import Answering, Engine, load, write_folder
from neo_lightning.evaluation import EvaluationContext, SceneEvaluation, scenes
from neo_lightning.evaluation.questions import Question
from neo_lightning.report import write_report
from neo_lightning.scenes import TASKS
from tests.evaluation.conftest import PER_TASK
from tests.report.test_report import check_page
from tests.tiny_models import random_model


class Oracle(SceneEvaluation):
    """Answers right where it sees something, and `?` to black pixels."""

    def _answers(self, engine: Engine, asked: list[Question]) -> list[str]:
        return ["?" if len(q.patches) and q.patches.unique().numel() == 1 else f" {q.truth}\n" for q in asked]


def test_every_type_is_asked_and_reported(shards: Path, context: EvaluationContext) -> None:
    evaluation = SceneEvaluation(f"{shards}/*.tar", batch_size=7, max_new_tokens=4, goals={"which_image": 0.8})
    result = evaluation.run(context)
    assert list(result["types"]) == sorted(TASKS)
    for name, entry in result["types"].items():
        assert entry["total"] == PER_TASK
        assert entry["accuracy"] == entry["correct"] / PER_TASK
        assert entry["chance"] == TASKS[name].chance
        assert entry["goal"] == (0.8 if name == "which_image" else 0.9)
        assert entry["verdict"] in ("learned", "partly learned", "not learned")
        if TASKS[name].modality == "text":
            assert entry["blanked"] is None
        else:
            assert entry["blanked"]["total"] == PER_TASK
    assert result["export"] is None
    assert result["failures"] == []
    report = write_report(context, {"scenes": result})
    assert json.loads((context.run_dir / "report.json").read_text()) == report
    pictured = [entry for entry in report["evaluations"]["scenes"]["examples"] if entry["pictures"]]
    assert len(pictured) == 24
    assert {example.asked.kind for example in result["examples"]} == set(TASKS)
    pictured_types = [name for name, task in TASKS.items() if task.modality != "text"]
    watched = [entry["type"] for entry in report["evaluations"]["scenes"]["examples"] if entry["heads"]]
    assert sorted(watched) == sorted(pictured_types)  # one of each
    page = check_page((context.run_dir / "report.html").read_text())
    assert page.images == 24 + len(pictured_types)


def test_right_answers_count_and_the_control_does_not_mix_in(shards: Path, context: EvaluationContext) -> None:
    evaluation = Oracle([f"{shards}/{name}-*.tar" for name in ("colour", "number", "copy")], goal=1.0)
    types = evaluation.run(context)["types"]
    assert {name: entry["correct"] for name, entry in types.items()} == {"colour": 3, "number": 3, "copy": 3}
    assert types["colour"]["blanked"]["correct"] == 0
    assert types["number"]["control_met"]  # 0 of 3 is within 12 points of 1 in 90
    assert types["colour"]["control_met"] is False  # but not of 1 in 6
    assert types["number"]["verdict"] == types["copy"]["verdict"] == "learned"
    assert types["copy"]["control_met"] is None


@pytest.mark.parametrize("limit", ["MOST_UNITS", "MOST_TOKENS"])
def test_heads_of_long_prompts_are_left_out(
    limit: str, shards: Path, context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many pictures a sheet would be too wide, of many tokens the maps too large to keep."""
    evaluation = SceneEvaluation([f"{shards}/{name}-*.tar" for name in ("colour", "same_colour")], max_new_tokens=2)
    found = [example for example in evaluation.run(context)["examples"] if example.attention is not None]
    sizes = {e.asked.kind: (len(e.asked.prompt.grids), len(e.asked.prompt)) for e in found}
    most = sizes["colour"][limit == "MOST_TOKENS"]
    assert most < sizes["same_colour"][limit == "MOST_TOKENS"]
    monkeypatch.setattr(scenes, limit, most)
    examples = evaluation.run(context)["examples"]
    assert {example.asked.kind for example in examples if example.attention is not None} == {"colour"}


def test_limit_and_switched_off_control(shards: Path, context: EvaluationContext) -> None:
    evaluation = SceneEvaluation(f"{shards}/p*.tar", limit=2, blank_control=False, max_new_tokens=2, pictures=1)
    result = evaluation.run(context)
    assert {name: entry["total"] for name, entry in result["types"].items()} == {"pattern": 2, "position": 2}
    assert all(entry["blanked"] is None for entry in result["types"].values())
    assert sum(bool(len(example.asked.patches)) for example in result["examples"]) == 1


def test_unknown_goal_is_refused_before_anything_is_trained(shards: Path) -> None:
    with pytest.raises(ValueError, match=r"goals for colr.*ask colour"):
        SceneEvaluation(f"{shards}/colour-*.tar", goals={"colr": 0.5}).check()


def test_export_has_to_answer_alike(
    shards: Path, context: EvaluationContext, config: Any, tokenizer_folder: Path, tmp_path: Path
) -> None:
    folder, answering = tmp_path / "export", context.engine.answering
    write_folder(context.model, folder, tokenizer_folder, answering)
    evaluation = SceneEvaluation([f"{shards}/{name}-*.tar" for name in ("copy", "motion")], max_new_tokens=6)
    context = dataclasses.replace(context, export_dir=folder, load_export=load)
    result = evaluation.run(context)
    assert result["export"] == {"checked": 2 * PER_TASK, "same": 2 * PER_TASK, "different": []}
    assert result["failures"] == []
    assert len({example.answer for example in result["examples"]}) >= PER_TASK  # not all alike by default

    write_folder(random_model(config, 1), tmp_path / "other", tokenizer_folder, answering)
    report = write_report(context, {"s": evaluation.run(dataclasses.replace(context, export_dir=tmp_path / "other"))})
    export = report["evaluations"]["s"]["export"]
    assert export["same"] < export["checked"]
    assert set(export["different"][0]) == {"key", "before", "after"}
    assert len(report["failures"]) == 1
    assert report["failures"][0].startswith("s: the exported model answered")
    assert "Failed:" in (context.run_dir / "report.html").read_text()


@pytest.mark.parametrize("kind", ["image", "video"])
def test_an_export_with_other_budgets_fails_the_check(
    kind: str, shards: Path, context: EvaluationContext, tokenizer_folder: Path, tmp_path: Path
) -> None:
    right, folder = context.engine.answering, tmp_path / "export"
    wrong = dataclasses.replace(right, **{kind: getattr(Answering(), kind)})
    write_folder(context.model, folder, tokenizer_folder, wrong)
    evaluation = SceneEvaluation([f"{shards}/{name}-*.tar" for name in ("colour", "motion")], max_new_tokens=6)
    result = evaluation.run(dataclasses.replace(context, export_dir=folder, load_export=load))
    different, asked = result["failures"]
    assert "answered" in different
    assert f"{kind}.max_pixels: {getattr(right, kind).max_pixels} -> {getattr(wrong, kind).max_pixels}" in asked
    other = {"image": "motion", "video": "colour"}[kind]
    assert not any(item["key"].startswith(other) for item in result["export"]["different"])
