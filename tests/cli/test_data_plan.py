"""`data plan` and `data stats`: numbers that a person can check, from planning alone."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from neo_lightning.cli.arguments import parse
from neo_lightning.cli.data_plan import data_of, histogram
from neo_lightning.cli.main import main
from neo_lightning.cli.parser import NeoCLI


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
    found = re.search(r"fill ([\d.]+)%.* 2 ranks work ([\d.]+)% .*as they come: ([\d.]+)%", " ".join(two.split()))
    assert found
    fill, dealt, as_they_come = map(float, found.groups())
    assert 80 < fill <= 100
    assert 50 <= as_they_come <= dealt <= 100
    assert not (tmp_path / "run").exists(), "planning writes nothing"


def test_what_documents_cost_follows_the_recipes_model(micro: Path) -> None:
    """In `data plan` as in a run; stages that train less make fewer gradients, so that pairs weigh more in them."""
    data = data_of([str(micro)])
    cli = NeoCLI(parse([str(micro)]))
    assert data.costs == cli.datamodule.costs
    assert data.costs["one"].pair > 0
    frozen = data_of([str(micro), "--stages.one.trains=[hw]"]).costs
    assert frozen["one"].pair > frozen["two"].pair == data.costs["two"].pair


def test_a_run_goes_on_with_the_balance_it_began_with(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["run", str(micro), "--evaluation=[]", "--export=false", "--data.balance=steps"]
    assert main([*line, "--trainer.max_steps=3"]) == 0
    assert main([*line[:-1], "--data.balance=slots"]) == 2
    assert "balance: only in the checkpoint" in capsys.readouterr().err
    assert main(line) == 0
    log = (tmp_path / "run" / "metrics.csv").read_text()
    assert "balance" not in log.splitlines()[0], "one rank waits for nobody"


def test_a_wrong_recipe_is_refused_as_by_run(micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "plan", str(micro), "--stages.two.mixture={texts: 1}"]) == 2
    assert "did you mean 'text'" in capsys.readouterr().err
    assert main(["data", "plan", str(micro), "--ranks", "0"]) == 2


def test_a_manifests_samples_are_counted(scenes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["data", "stats", str(scenes / "manifest.yaml"), "--tokenizer", str(scenes / "tokenizer")]) == 0
    shown = capsys.readouterr().out
    assert "text (text): 60 samples" in shown
    assert shown.count("tokens of text: mean") == 5
    assert shown.count("image: megapixels") == 3
    assert shown.count("clip: seconds") == 1


def test_a_histogram_holds_every_value() -> None:
    lines = list(histogram("turns", np.array([1, 2, 3, 4, 7, 8, 0])))
    assert "most 8" in lines[0]
    assert sum(int(line.split()[-1]) for line in lines[1:]) == 7
    assert len(list(histogram("turns", np.full(5, 3)))) == 1
