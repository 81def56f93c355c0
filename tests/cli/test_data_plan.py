"""`data plan` and `data stats`: numbers that a person can check, from planning alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from neo_lightning.cli.data_plan import histogram
from neo_lightning.cli.main import main


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")


def test_a_recipes_plan_is_shown_by_stage(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    line = ["data", "plan", str(micro), "--ranks", "2", "--stages.two.steps=50", "--seed_everything=5"]
    assert main(line) == 0
    shown = capsys.readouterr().out
    one, two = shown.split("Stage two")
    assert "2 steps, 4 packs of 192" in one
    assert "50 steps, 100 packs of 192" in two
    rows = {
        cells[0]: cells for cells in ([c.strip() for c in line.split("│")[1:-1]] for line in two.splitlines()) if cells
    }
    for source, modality, asked in (("text", "text", 1 / 3), ("image", "image", 2 / 3)):
        cells = rows[source]
        assert cells[1] == modality
        percents = [float(cell.rstrip("%")) for cell in cells[2:6]]
        assert percents[0] == pytest.approx(100 * asked, abs=0.1)
        assert percents[1] == pytest.approx(100 * asked, abs=6)
        assert float(cells[6]) > 1, "a hundred packs of a few scenes"
        assert re.fullmatch(r"0 of \d+", cells[7])
    fill, balance = re.search(r"fill ([\d.]+)%.*balance over 2 ranks ([\d.]+)", two.replace("\n", " ")).groups()  # type: ignore[union-attr]
    assert 80 < float(fill) <= 100
    assert 0.5 <= float(balance) <= 1
    assert not (tmp_path / "run").exists(), "planning writes nothing"


def test_a_wrong_recipe_is_refused_as_by_run(micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "plan", str(micro), "--stages.two.mixture={texts: 1}"]) == 2
    assert "did you mean 'text'" in capsys.readouterr().err
    assert main(["data", "plan", str(micro), "--ranks", "0"]) == 2


def test_a_manifests_samples_are_counted(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "stats", str(scenes / "manifest.yaml"), "--tokenizer", str(scenes / "tokenizer")]) == 0
    shown = capsys.readouterr().out
    assert "text (text): 60 samples" in shown
    assert shown.count("tokens of text: mean") == 4
    assert shown.count("image: megapixels") == 2
    assert shown.count("clip: seconds") == 1


def test_a_histogram_holds_every_value() -> None:
    lines = list(histogram("turns", np.array([1, 2, 3, 4, 7, 8, 0])))
    assert "most 8" in lines[0]
    assert sum(int(line.split()[-1]) for line in lines[1:]) == 7
    assert len(list(histogram("turns", np.full(5, 3)))) == 1
