"""Benchmarks, small: they refuse by themselves to time two things that differ."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from neo_lightning.ops.fp8 import why_not

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_whole_steps_are_timed_on_a_cpu() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    arguments = "--device cpu --size tiny --tokens 128 --stage 1 2 --rows mixed video --repeats 1 --checkpointing full"
    eight_bit = not why_not(torch.device("cpu"))
    arguments += " --fp8" * eight_bit
    script = [sys.executable, str(ROOT / "benchmarks" / "step.py"), *arguments.split()]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines() if "| full |" in line]
    assert [(row[1], row[2], row[4]) for row in rows] == [
        (stage, kind, way)
        for stage in "12"
        for kind, way in (("mixed", "ours"), ("video", "ours"), ("mixed", "plain torch"), ("mixed", "ours, fp8"))
        if eight_bit or way != "ours, fp8"
    ]
    for row in rows:
        assert float(row[5]) > 0
        assert row[6] == "-", "a CPU's peak is not known"
        assert row[10].endswith("x") == (row[4] in ("plain torch", "ours, fp8"))


def test_saves_are_timed_side_by_side() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = [sys.executable, str(ROOT / "benchmarks" / "save.py"), "--gigabytes", "0.001", "--saves", "1"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")]
    assert rows == ["saved", "in front of it", "beside it", "torch's async_save"]
    assert "the same numbers on the disk: yes" in done.stdout


@pytest.mark.slow
def test_rows_and_steps_of_like_cost_make_two_processes_faster() -> None:
    """Real training steps of a sharded model. Both ways take turns, so a busy machine is so for both."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = [sys.executable, str(ROOT / "benchmarks" / "balance_steps.py"), "--steps", "6", "--rounds", "3"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    clock, work, expected = (
        float(re.search(rf"^{name}: ([\d.]+)", done.stdout, re.MULTILINE)[1])  # type: ignore[index]
        for name in ("by the clock", "by the slowest rank's CPU seconds", "expected")
    )
    assert expected > 1.2, "these steps have a slowest rank"
    assert work > 1 + (expected - 1) / 2, done.stdout
    assert clock > 1, done.stdout  # as much more as `work` where nothing else wants the cores
