"""`make bench-gpu` before anybody has a GPU: the program runs in small, keeps what it has, and judges by the tables."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
GPU = ROOT / "benchmarks" / "gpu"


def rehearse(out: Path, *more: str) -> tuple[int, dict, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, str(GPU), "--rehearse", "--out", str(out), *more]
    done = subprocess.run(line, env=environment, capture_output=True, text=True)
    return done.returncode, json.loads((out / "results.json").read_text()), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_everything_runs_in_small_on_a_cpu(tmp_path: Path) -> None:
    status, found, said = rehearse(tmp_path, "--minutes", "60")
    assert {part["name"]: part["status"] for part in found["parts"]} == dict.fromkeys(
        (part["name"] for part in found["parts"]), "passed"
    ), said
    assert status == 0
    for part in found["parts"]:
        assert part["tables"] or any(" passed" in line for line in part["printed"]), f"{part['name']} measured nothing"
    verdicts = {goal["what"]: goal["verdict"] for goal in found["goals"]}
    assert verdicts["graphs compiled after the first step"] == "stretch"
    page = (tmp_path / "results.html").read_text()
    assert "A rehearsal on a CPU" in page
    assert page.count("<h2>") == 1 + len(found["parts"])


@pytest.mark.slow
def test_a_part_that_is_not_done_in_time_loses_itself_alone(tmp_path: Path) -> None:
    status, found, said = rehearse(tmp_path, "--minutes", "0.15", "--only", "loss", "step_2", "decode")
    states = {part["name"]: part["status"] for part in found["parts"]}
    assert list(states) == ["step_2", "loss", "decode"], said
    assert states["decode"] == "no time left" or states["step_2"].startswith("not done in") or status == 0
    assert status == (0 if set(states.values()) == {"passed"} else 1)


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(GPU))


def test_goals_are_read_off_tables(modules: None) -> None:
    from goals import goals
    from tables import tables_of

    printed = """noise
    attention, 16384 tokens

| backend | forward ms | forward + backward ms | TFLOP/s | time / ours |
|---|---|---|---|---|
| triton | 1.0 | 4.0 | 300 | 1.00x |
| FlexAttention | 2.0 | 9.0 | 130 | 2.25x |
| FlexAttention, tuned | 1.5 | 5.6 | 210 | 1.40x |
| causal, 256 wide (torch's FlashAttention) | 1.0 | 3.0 | 375 |  |

| way | ms | peak MiB | time / ours | memory / ours |
|---|---|---|---|---|
| ours | 10.0 | 300 | 1.00x | 1.0x |
| eager | 8.0 | 6,300 | 0.80x | 21.0x |
| cut"""
    first, second = tables_of(printed)
    assert first["title"] == "attention, 16384 tokens"
    assert second["rows"][-1] == ["cut"], "a table that is cut off keeps what it has"
    found = {
        goal["what"]: (goal["found"], goal["verdict"])
        for goal in goals([{"name": "attention", "tables": [first]}, {"name": "loss", "tables": [second]}])
    }
    assert found["attention, 16K, against the faster FlexAttention"] == (1.4, "missed")
    assert found["attention's FLOP/s over FlashAttention's, causal"] == (80, "reached")
    assert found["loss, 16K: memory of all logits over ours"] == (21, "stretch")
    assert found["loss, 16K: time of all logits over ours"] == (0.8, "missed")
    assert found["2B stage 2, 36K on one GPU"] == (None, "not measured")


def test_parts_on_a_gpu_name_files_that_are_there_and_fit_their_time(modules: None) -> None:
    from parts import parts

    real, small = parts(rehearse=False, kit=Path("kit")), parts(rehearse=True, kit=None)
    assert {part.name for part in small} == {part.name for part in real} - {"fp8", "attention_36k"}
    for part in [*real, *small]:
        paths = [word for word in part.command if word.endswith(".py") or word.startswith("tests")]
        assert paths, part
        assert all((ROOT / path).exists() for path in paths), part
    assert sum(part.seconds for part in real[:6]) < 9 * 60, "correctness and the first speed fit at their worst"


def test_what_others_wrote_is_escaped_on_the_page(modules: None) -> None:
    from goals import goals
    from page import page

    part = {"name": "x", "claim": "c", "limit_s": 1, "status": "failed", "seconds": 1.0, "tables": []}
    part |= {"printed": ["<script>alert(1)</script>"]}
    found = {"place": "<b>", "memory_gib": None, "begun": "now", "rehearsed": False, "parts": [part]}
    text = page(found | {"goals": goals([part])})
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text
