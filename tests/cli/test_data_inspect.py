"""`data inspect`: which packs a command line shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.cli.main import main


def test_the_runs_packs_or_a_stage_alone(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pages" / "inspect.html"
    line = ["data", "inspect", str(micro), "--packs", "2", "--out", str(out)]
    assert main([*line, "--first-pack", "3"]) == 0
    text = out.read_text(encoding="utf-8")
    assert text.count('<section class="pack"') == 2
    assert "stage one, step 1:" in text, "pack 3 is the last of the first stage's two steps of two"
    assert "stage two, step 2:" in text
    assert main([*line, "--stage", "two", "--stages.two.context=256"]) == 0
    text = out.read_text(encoding="utf-8")
    assert "Packs 0 to 1: what" in text
    assert text.count("of 256 tokens") == 2
    assert "stage two alone" in text
    assert str(out) in capsys.readouterr().out
    assert not (tmp_path / "run").exists(), "looking writes nothing but the page"


def test_what_does_not_exist_is_refused(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["data", "inspect", str(micro), "--out", str(tmp_path / "x.html")]
    assert main([*line, "--stage", "tow"]) == 2
    assert "Did you mean 'two'?" in capsys.readouterr().err
    assert main([*line, "--first-pack", "12"]) == 2
    assert "there are 12 packs" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()
