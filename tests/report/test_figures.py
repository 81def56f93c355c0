"""The scripts that turn finished runs into the README's table and picture."""

from __future__ import annotations

import copy
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from neo_lightning.evaluation import EvaluationContext
from neo_lightning.report import write_report
from tests.evaluation.test_scenes import Oracle

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def report(shards: Path, context: EvaluationContext) -> dict[str, Any]:
    return write_report(context, {"scenes": Oracle(f"{shards}/*.tar", goal=0.9).run(context)})


def test_table_of_two_seeds(report: dict[str, Any]) -> None:
    script = runpy.run_path(str(BENCHMARKS / "demo_seeds.py"))
    other = copy.deepcopy(report)
    other["seed"] = 1
    other["evaluations"]["scenes"]["types"]["motion"] |= {"accuracy": 0.5, "verdict": "partly learned"}
    lines = script["table"]([report, other]).splitlines()
    assert lines[0] == "| question type | chance | goal | seed None | seed 1 | pixels blanked | learned |"
    motion = next(line for line in lines if line.startswith("| motion"))
    assert motion == "| motion | 25% | 90% | 100% | 50% | 0% / 0% | yes / partly |"
    copying = next(line for line in lines if line.startswith("| copy"))
    assert copying == "| copy | 0% | 90% | 100% | 100% | – | yes |"
    other["evaluations"]["scenes"]["types"]["motion"]["goal"] = 0.5
    with pytest.raises(SystemExit, match="other question types or goals"):
        script["table"]([report, other])


def test_a_failed_or_missing_run_gives_no_table(context: EvaluationContext, tmp_path: Path) -> None:
    script = runpy.run_path(str(BENCHMARKS / "demo_seeds.py"))
    with pytest.raises(SystemExit, match="not finished"):
        script["read"](tmp_path)
    write_report(context, {"x": {"failures": ["differently"]}})
    with pytest.raises(SystemExit, match="the run failed: x: differently"):
        script["read"](context.run_dir)


def test_picture(
    report: dict[str, Any], context: EvaluationContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = runpy.run_path(str(BENCHMARKS / "readme_picture.py"))
    out = tmp_path / "docs" / "demo.png"
    monkeypatch.setattr(sys, "argv", ["readme_picture.py", str(context.run_dir), "--out", str(out)])
    assert script["main"]() == 0
    with Image.open(out) as picture:
        assert picture.size == (2000, 1280)
        assert len(picture.convert("RGB").getcolors(1 << 20)) > 50
