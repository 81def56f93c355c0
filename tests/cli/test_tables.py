"""What people read where no terminal is: whole tables, the keys of a stage, and the status of a mistyped key."""

from __future__ import annotations

import dataclasses
import io
import re
import sys
from pathlib import Path

import pytest
from rich.table import Table

from neo_lightning.cli.main import COMMANDS, main
from neo_lightning.console import table_console
from neo_lightning.types import PixelBudget, Stage, VideoBudget

LONG = "a heading that is longer than a third of a line of eighty columns"


def test_a_table_is_whole_where_the_output_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("80", "20"):
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        table = Table(title="T")
        for number in range(3):
            table.add_column(f"{number} {LONG}")
        table.add_row("x" * 100, "y", "z")
        table_console().print(table)
        shown = sys.stdout.getvalue()  # type: ignore[attr-defined]
        assert all(f"{number} {LONG}" in shown for number in range(3))
        assert "x" * 100 in shown
        assert max(map(len, shown.splitlines())) < 300, "as wide as its content"


def test_every_table_of_the_commands_is_printed_there() -> None:
    package = Path(__file__).resolve().parents[2] / "neo_lightning"
    wrong = [
        path.name
        for path in package.rglob("*.py")
        if path.name != "console.py" and re.search(r"(?<!_)Console\((?!file=sys.stderr)", path.read_text("utf-8"))
    ]
    assert wrong == []


def test_a_plan_in_a_pipe_has_all_its_headings(
    micro: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["data", "plan", str(micro), "--ranks", "3", "--stages.two.packs_per_step=8"]) == 0
    shown = capsys.readouterr().out
    for heading in ("source", "modality", "asked (samples)", "samples", "tokens", "supervised", "epochs", "left out"):
        assert f" {heading} " in shown
    assert "1 of 3 ranks have no row in any step of stage one: stages.one.packs_per_step is 2" in shown
    assert "of stage two" not in shown


@pytest.mark.parametrize("line", [["run", "--stages.help"], ["fit", "demo", "--stages.sft.help"]])
def test_the_keys_of_a_stage(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line) == 0
    shown = capsys.readouterr().out
    names = [field.name for field in dataclasses.fields(Stage) if field.name not in ("image", "video")]
    names += [f"image.{field.name}" for field in dataclasses.fields(PixelBudget)]
    names += [f"video.{field.name}" for field in dataclasses.fields(VideoBudget)]
    listed = re.findall(r"^  ([\w.]+): (.*)\n      (\S.*)$", shown, flags=re.M)
    assert sorted(name for name, _, _ in listed) == sorted(names)
    told = {name: (kind, text) for name, kind, text in listed}
    assert told["steps"] == ("int, required", "Optimiser steps.")
    assert told["image.max_pixels"][0] == "int, default 1048576"
    assert "pixels" in told["image.max_pixels"][1]
    assert told["video.fps"][0] == "float | None, default 1.0"


LINES = {
    "run": ["{micro}", "--stages.two.stepz=1"],
    "launch": ["--max-restart=1"],
    "runs": ["--sortt=x"],
    "rewind": ["{micro}", "--tto=1"],
    "plan": ["{micro}", "--stages.two.stepz=1"],
    "fit": ["{micro}", "--stages.two.stepz=1"],
    "validate": ["{micro}", "--trainer.limit_val_rows=1"],
    "test": ["{micro}", "--stages.two.stepz=1"],
    "predict": ["{micro}", "--model.clipp=1"],
    "model": ["info", "--modle=x"],
    "data": ["plan", "{micro}", "--stages.two.stepz=1"],
    "chat": ["--modle=x"],
    "eval": ["--modle=x"],
    "serve": ["--modle=x"],
    "sweep": ["--at-onse=2"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_key_is_named_with_status_2(command: str, micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = [part.format(micro=micro) for part in LINES[command]]
    assert main([command, *line]) == 2
    error = capsys.readouterr().err
    wrong = line[-1].split("=")[0].lstrip("-").rpartition(".")[2]
    assert wrong in error
    assert "Did you mean" in error or "Known here" in error or command == "plan"
    assert "Traceback" not in error


SOURCE = """
from neo_lightning.data.facts import SampleFacts, Turn
from neo_lightning.types import Message, Sample


class Words:
    modality = "text"

    def __init__(self, count, bad=-1):
        self.count, self.bad = count, bad

    def __len__(self):
        return self.count

    def facts(self, index):
        turns = (Turn(role="assistant", parts=("hello",)),)
        return SampleFacts(key=f"w{index}", modality="text", turns=turns, media=())

    def read(self, index):
        if index == self.bad:
            raise RuntimeError("the disk is on fire")
        return Sample(key=f"w{index}", modality="text", messages=(Message(role="assistant", parts=("hello",)),))
"""


@pytest.mark.parametrize(("bad", "status"), [(-1, 0), (4, 1)])
def test_data_check_counts_and_reads_a_class_of_ones_own(
    bad: int, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_words.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text(f"sources: {{mine: {{class_path: my_words.Words, init_args: {{count: 300, bad: {bad}}}}}}}")
    for decode, read in (([], 60), (["--decode"], 300)):
        assert main(["data", "check", str(manifest), *decode]) == (status if decode else 0)
        shown = capsys.readouterr().out
        assert f"{read} of them read" in shown
        lost = status if decode else 0
        assert f"{300 - lost} text samples" in shown
        assert f"{300 - lost} samples can be used, {lost} are left out" in shown
        assert ("the disk is on fire" in shown) == bool(lost)
