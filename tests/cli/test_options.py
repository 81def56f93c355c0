"""What is typed wrongly is named with what would be right, by every command's own parser alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from neo_lightning.cli.main import main

SHORT = {
    "model export --run x --ou y": "unknown option --ou. Did you mean '--out'?",
    "model info x --contex=3": "unknown option --contex. Did you mean '--context'?",
    "chat --mod x": "unknown option --mod. Did you mean '--model'?",
    "data check --js x": "unknown option --js. Did you mean '--json'?",
    "data import --inp x --out y": "unknown option --inp. Did you mean '--input'?",
    "data plan x --rank 2": "--rank is neither an option nor a recipe's key. Did you mean '--ranks'?",
    "plan x --stric": "--stric is neither an option nor a recipe's key. Did you mean '--strict'?",
    "data check x y": "unexpected y",
    "model export --run x": "required: --out",
    "run {micro} --trainer.limit_val_batch=1": "Did you mean 'trainer.limit_val_batches'?",
    "fit {micro} --trainer.limit_val_batch=1": "Did you mean 'trainer.limit_val_batches'?",
    "data plan {micro} --data.see=1": "Did you mean 'data.seed'?",
}


@pytest.mark.parametrize("line", SHORT)
def test_nothing_is_abbreviated(line: str, micro: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.format(micro=micro).split()) == 2
    error = capsys.readouterr().err
    assert SHORT[line] in error
    assert len(error.splitlines()) < 4


def test_a_folder_in_the_place_of_a_manifest_or_model_is_told_apart(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("check", "stats", "index"):
        assert main(["data", command, str(scenes)]) == 2
        assert f"its manifest is {scenes / 'manifest.yaml'}" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path)]) == 2
    assert "it has none; `neo-lightning data import`" in capsys.readouterr().err
    assert main(["model", "info", str(tmp_path)]) == 2
    assert "neither a model folder (config.json, model.safetensors) nor a run's" in capsys.readouterr().err
