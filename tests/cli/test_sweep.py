"""`lightning sweep` with real runs: killed and gone on with, compared, and not mixed with another sweep's."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from neo_lightning.cli.main import main
from tests.owners import holder

SWEEP = """
recipe: {recipe}
folder: {folder}
seeds: [0]
common: {{export: false, evaluation: []}}
arms:
  slow: {{stages.one.lr: 1.0e-4, stages.two.lr: 1.0e-4}}
  fast: {{stages.one.lr: 1.0e-2, stages.two.lr: 1.0e-2}}
  wrong: {{stages.one.lrr: 1}}
measures:
  - {{name: loss, column: loss, take: area, better: lower}}
expect:
  - {{measure: loss, better: fast, worse: slow}}
"""


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_stop_and_compares_what_is_done(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweep"
    file = tmp_path / "rates.yaml"
    file.write_text(SWEEP.format(recipe=micro, folder=folder))
    line = [sys.executable, "-m", "neo_lightning", "sweep", str(file), "--at-once", "1"]
    first = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    assert first.stdout is not None
    for said in first.stdout:  # the first run is done, the second one has begun
        if "fast, seed 0: starts" in said:
            first.send_signal(signal.SIGTERM)
            break
    rest = first.stdout.read()
    assert first.wait() == 75, rest
    assert not (folder / "sweep.html").exists()
    done = (folder / "slow" / "0" / "report.json").stat().st_mtime_ns

    assert main(line[3:]) == 2, "an arm that is refused is told, and the others are compared"
    out = capsys.readouterr()
    assert "wrong, seed 0: ended with 2: " in out.out
    assert "lrr" in out.out
    assert "1 runs did not end well" in out.err
    assert (folder / "slow" / "0" / "report.json").stat().st_mtime_ns == done, "it was not trained again"
    tree = json.loads((folder / "sweep.json").read_text())
    values = {arm: entry["measures"]["loss"]["values"] for arm, entry in tree["arms"].items()}
    assert values["fast"]["0"] < values["slow"]["0"]
    assert values["wrong"] == {}
    assert tree["arms"]["fast"]["cost"]["flops"] > 0
    assert [e["said"] for e in tree["expected"]] == ["open"], "one seed says nothing"
    assert "fast better than slow" in (folder / "sweep.html").read_text()

    file.write_text(file.read_text().replace("1.0e-2, stages.two", "2.0e-2, stages.two"))
    assert main(line[3:]) == 2
    assert "holds a run of another sweep: stages.one.lr differs" in capsys.readouterr().err
    assert json.loads((folder / "fast" / "0" / "job.json").read_text())["overrides"]["stages.one.lr"] == 0.01


def test_nothing_to_report_is_told(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "rates.yaml"
    file.write_text(SWEEP.format(recipe=micro, folder=tmp_path / "sweep"))
    assert main(["sweep", str(file), "--report"]) == 2
    assert "no run below" in capsys.readouterr().err
    for wrong in ("0,7", "a", ""):
        assert main(["sweep", str(file), "--seeds", wrong]) == 2
        assert f"--seeds: {wrong.removeprefix('0,')!r} is none of the file's: 0" in capsys.readouterr().err
    file.write_text(file.read_text().replace("slow: {", "slow: {config: design/fuyo, "))
    assert main(["sweep", str(file)]) == 2
    assert "sweep rates: arm slow: config: 'design/fuyo' is neither a file nor" in capsys.readouterr().err
    assert main(["sweep", str(tmp_path / "none.yaml")]) == 2
    assert "is neither a file nor a shipped name" in capsys.readouterr().err
    assert not os.path.exists(tmp_path / "sweep")


def test_one_sweep_at_a_time_trains_in_a_folder(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, file = tmp_path / "sweep", tmp_path / "rates.yaml"
    file.write_text(SWEEP.format(recipe=micro, folder=folder))
    with holder(folder / "sweep.lock") as process:
        assert main(["sweep", str(file)]) == 2
        error = capsys.readouterr().err
        assert f"the sweep in {folder} is in use by" in error
        assert f"pid {process.pid}" in error
        assert [path.name for path in folder.iterdir()] == ["sweep.lock"], "nothing was done there"
        assert main(["sweep", str(file), "--report"]) == 2, "which only reads"
        assert "no run below" in capsys.readouterr().err


def test_a_folder_that_is_a_file_is_told(micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep").touch()
    file = tmp_path / "rates.yaml"
    file.write_text(SWEEP.format(recipe=micro, folder=tmp_path / "sweep"))
    assert main(["sweep", str(file)]) == 2
    assert f"{tmp_path / 'sweep'} cannot be written" in capsys.readouterr().err
