"""`model.ema` from the command line: what is exported, and what `plan` says of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from neo_lightning.cli.finish import last_checkpoint, restore
from neo_lightning.cli.main import main


def test_the_average_is_exported_unless_the_weights_are_asked_for(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(micro), "--model.ema=0.5", "--export=true"]) == 0
    run = micro.parent / "run"
    for kind, line in (("ema", []), ("raw", ["--weights", "raw"])):
        assert (
            main(["model", "export", "--run", str(run), "--out", str(tmp_path / kind), "--dtype=float32", *line]) == 0
        )
    said = capsys.readouterr().out
    assert f"{tmp_path / 'ema'}: the average of the weights from " in said
    assert f"{tmp_path / 'raw'}: exported from " in said
    own, ema, raw = (
        load_file(folder / "model.safetensors") for folder in (run / "export", tmp_path / "ema", tmp_path / "raw")
    )
    average = dict(restore(last_checkpoint(run), dtype=torch.float32, weights="ema").named_parameters())
    assert all(torch.equal(own[name], average[name]) and torch.equal(ema[name], average[name]) for name in own)
    assert not all(torch.equal(raw[name], average[name]) for name in own)


def test_what_has_no_average_says_so(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(micro)]) == 0
    line = ["model", "export", "--run", str(micro.parent / "run"), "--out", str(tmp_path / "x"), "--weights", "ema"]
    assert main(line) == 2
    assert "holds no average of the weights: it was trained without model.ema" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_plan_counts_the_average_and_what_is_gathered(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["plan", "neo_ov_9b", "--device=h100", "--devices=128", "--model.ema=0.999"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "averages of the weights │" in shown
    assert "the whole weights, 19.1 GiB on each device of which" in shown
    assert "are gathered once; keys and values of a context's tokens take" in shown
    assert main(["plan", "neo_ov_9b", "--device=h100", "--devices=128", "--memory=40"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "averages of the weights" not in shown
    assert "too much of that, so gathered again for every token" in shown
