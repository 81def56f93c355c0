"""Folders whose names look like patterns: nothing but what the user wrote as a pattern is one (case r10)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from neo_lightning.cli.main import main
from tests.cli.conftest import RECIPE

ODD = "old [2024] {1..2} a*?"


def test_an_import_reads_and_writes_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / ODD, tmp_path / f"out {ODD}"
    (folder / "media [x]").mkdir(parents=True)
    Image.new("RGB", (64, 32)).save(folder / "media [x]" / "a.jpg")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A ball."}]
    (folder / "a.json").write_text(json.dumps([{"image": "media [x]/a.jpg", "conversations": turns}]))
    line = ["data", "import", "--format", "llava", "--input", str(folder / "a.json"), "--media", str(folder)]
    assert main([*line, "--out", str(out), "--workers", "1"]) == 0
    for command in ("index", "check", "stats"):
        assert main(["data", command, str(out / "manifest.yaml")]) == 0
    assert "".join(f"Index of {out}".split()) in "".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_run_reads_its_data_and_writes_its_folder_there(scenes: Path, tmp_path: Path) -> None:
    folder, data = tmp_path / ODD, tmp_path / ODD / "scenes [x]"
    shutil.copytree(scenes, data)
    recipe = folder / "micro [2].yaml"
    text = RECIPE.format(dir=f"'{folder / 'run [1]'}'", scenes="SCENES")
    text = text.replace(
        "{manifest: SCENES/manifest.yaml, tokenizer: SCENES/tokenizer}",
        f"{{manifest: '{data}/manifest.yaml', tokenizer: '{data}/tokenizer'}}",
    )
    recipe.write_text(text.replace("SCENES", str(data)), encoding="utf-8")
    assert main(["run", str(recipe)]) == 0
    assert json.loads((folder / "run [1]" / "report.json").read_text())
    assert main(["run", str(recipe)]) == 0, "and finds what it has done"
