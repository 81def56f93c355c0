"""What a finished run says to another recipe, and that its export and report are those of its last step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from neo_lightning.cli.main import main


@pytest.mark.slow
def test_a_finished_run_is_that_of_its_recipe(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, line = tmp_path / "run", ["run", str(micro), "--evaluation=[]"]
    assert main([*line, "--trainer.max_steps=3"]) == 0
    assert main([*line, "--stages.two.lr=2e-3", "--accept-changes"]) == 0
    assert "stages.two.lr: was 0.001, is 0.002" in capsys.readouterr().out, "it goes on otherwise, and says so"
    line += ["--stages.two.lr=2e-3"]
    for change, said in {
        "--stages.one.lr=1e-4": "stages.one.lr: was 0.001, is 0.0001",
        "--stages.two.lr_scale={hw: 0.5}": "stages.two.lr_scale.hw: was None, is 0.5",
        "--seed_everything=4": "seed_everything: was 3, is 4",
        "--stages.two.steps=3": "stages.two.steps: was 4, is 3",
        "--trainer.precision=bf16-mixed": "trainer.precision: was None, is bf16-mixed",
    }.items():
        assert main([*line, change]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert "--run.dir=FOLDER" in error
        assert str(run / "recipe.yaml") in error
    own_name = tmp_path / "named.yaml"
    text = micro.read_text().replace(f"dir: {run}", f"dir: '{tmp_path}/${{run.name}}'").replace("micro", "run")
    own_name.write_text(text)
    assert main(["run", str(own_name), "--evaluation=[]"]) == 2
    assert "--run.name=NAME" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    scenes = micro.read_text().partition("manifest: ")[2].partition("/manifest.yaml")[0]
    (tmp_path / "scenes").symlink_to(scenes)
    for same in (["--data.num_workers=1"], ["--data.manifest=scenes/manifest.yaml"], ["--trainer.max_steps=4"]):
        assert main([*line, *same]) == 0, "how it trains, not what; the same place by another name"
        assert "complete" in capsys.readouterr().out
    assert main(["run", str(run / "recipe.yaml")]) == 0, "its own recipe"
    assert "complete" in capsys.readouterr().out
    (run / "recipe.yaml").write_text("stagez: 1")
    assert main(line) == 2
    assert f"{run / 'recipe.yaml'}: what the run was trained with cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_export_and_report_are_those_of_the_last_step_and_of_the_evaluations_asked(
    micro: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    few = ["run", str(micro)]
    assert main(few) == 0
    note, processor = run / "finished.json", run / "export" / "processor_config.json"
    processor.unlink()  # an export of a version that did not write it; such a run has no note either
    note.unlink()
    capsys.readouterr()
    assert main(few) == 0
    out = capsys.readouterr().out
    assert "export (in place of what was there)" in out
    assert "report: " in out
    assert processor.is_file()
    other = tmp_path / "other.yaml"
    other.write_text(micro.read_text().replace("max_new_tokens: 4", "max_new_tokens: 2"))
    assert main(["run", str(other)]) == 0
    assert "evaluation: scenes" in capsys.readouterr().out, "the same name, asked otherwise"
    assert main(["run", str(other)]) == 0
    assert "complete" in capsys.readouterr().out

    copy = str(tmp_path / "copy")
    for line in (["export", "--run", str(run)], ["import", "--model", str(run / "export")]):
        for said in ("", "(in place of the model that was there)") if line[0] == "export" else ["(in place of"]:
            assert main(["model", *line, "--out", copy]) == 0
            assert (said or "exported from") in capsys.readouterr().out

    # the weights of a folder that another run exported to are not this run's
    taken = f"--export={run / 'export'}"
    assert main(["run", str(micro), f"--run.dir={tmp_path / 'second'}", taken]) == 2
    assert "holds a model that is not this run's" in capsys.readouterr().err
    assert not (tmp_path / "second").exists(), "a refused start leaves nothing"
    own = f"--export={tmp_path / 'elsewhere'}"
    assert main(["run", str(micro), "--evaluation=[]", own]) == 0
    assert main(["run", str(micro), "--evaluation=[]", own]) == 0
    assert "complete" in capsys.readouterr().out

    # trained anew in the same folder: nothing of before counts
    for checkpoint in (run / "checkpoints").iterdir():
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()
    assert main(["run", str(micro), "--evaluation=[]", "--seed_everything=5", "--data.seed=3", own]) == 0
    assert "exported: " in (out := capsys.readouterr().out)
    assert "report: " in out
    assert json.loads((run / "report.json").read_text())["seed"] == 5
