"""A trace of a run's steps, by a key of its recipe: valid JSON with the parts of a step in their order."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from neo_lightning.cli.main import main
from neo_lightning.training.callbacks import Trace


def test_a_recipes_key_writes_a_trace_with_a_steps_parts_in_their_order(micro: Path, tmp_path: Path) -> None:
    line = ["run", str(micro), "--trainer.callbacks+=neo_lightning.training.callbacks.Trace", "--evaluation=[]"]
    line += ["--trainer.callbacks.first=2", "--trainer.callbacks.steps=1", "--stages.two.steps=2"]
    assert main(line) == 0
    events = json.loads((tmp_path / "run" / "trace" / "rank-00000.json").read_text(encoding="utf-8"))["traceEvents"]
    parts = ("data", "patch embedding", "layer 0", "layer 1", "loss", "clip", "optimiser")
    ranges = sorted((e["ts"], e["name"], e["ts"] + e["dur"]) for e in events if e.get("name") in parts and "dur" in e)
    row = ["patch embedding", "layer 0", "layer 1", "loss"]
    assert [name for _, name, _ in ranges] == ["data", *row, *row, "clip", "optimiser"], "two rows a step"
    assert all(before[2] <= after[0] for before, after in pairwise(ranges)), "one after the other"


def test_steps_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="steps >= 1, found 3 and 0"):
        Trace(first=3, steps=0)
