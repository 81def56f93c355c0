"""Killed at any moment of its end, a run ends as one that was not; and folders in which nothing can be written."""

from __future__ import annotations

import json
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from neo_lightning.checkpoint.commit import committed
from tests.checkpoints import contents
from tests.forks import Server

STOPPING = (
    "{class_path: lightning.pytorch.callbacks.EarlyStopping, init_args: {monitor: val_loss, stopping_threshold: 99}}"
)
MOMENTS = ("ended.json", "step-00000003", "model.safetensors", "config.json", "report.json", "report.html")
"""What has just been put in its place when a run is killed."""
SAME = ("format", "title", "seed", "model", "stages", "skipped", "goals", "failures")
"""What a report says that is not of when, where and how fast."""


def line(micro: Path, run: Path) -> list[str]:
    """A run that a callback ends after three of its six steps, with an export that lies elsewhere."""
    stop = [f"--trainer.callbacks+={STOPPING}", "--data.validation=[image]", "--trainer.val_check_interval=3"]
    return ["run", str(micro), f"--run.dir={run}", f"--export={run.parent / 'model'}", *stop]


def state(folder: Path) -> dict[str, Any]:
    """What a run has left, but for times, and files of a kill that lie unread."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_file() and "tensorboard" not in name and not path.name.startswith("."):
            found[name] = path.read_bytes()
    for checkpoint in committed(folder / "run" / "checkpoints"):
        name = str(checkpoint.relative_to(folder))
        found = {file: held for file, held in found.items() if not file.startswith(name)} | {name: contents(checkpoint)}
    report = json.loads(found["run/report.json"])
    timed = ("report.json", "report.html", "wall_seconds.json", "starts.json", "status.json")
    for name in (*timed, "recipe.yaml", "metrics.csv"):
        found[f"run/{name}"] = "there"
    found["run/finished.json"] = found["run/finished.json"].replace(str(folder).encode(), b"")
    losses = {name: values for name, values in report["curves"]["columns"].items() if "loss" in name}
    answers = {name: result["types"] for name, result in report["evaluations"].items()}
    return found | {name: report[name] for name in SAME} | losses | answers


@pytest.mark.slow
def test_point_07_killed_at_any_moment_of_its_end(forks: Server, micro: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    changes = tmp_path / "changes"
    status, output = forks.run("tests.cli.dies:run", line(micro, whole / "run"), str(whole), 0, str(changes))
    assert status == 0, output
    listed = changes.read_text().splitlines()
    for number, name in enumerate(MOMENTS):
        moment = 2 + max(i for i, change in enumerate(listed) if change.startswith("os.rename") and name in change)
        folder = tmp_path / str(number)
        folder.mkdir()
        for dies in (moment, 0):
            status, output = forks.run("tests.cli.dies:run", line(micro, folder / "run"), str(folder), dies)
            assert status == (-signal.SIGKILL if dies else 0), f"{name}: {output}"
        assert state(folder) == state(whole), f"killed behind {name}"


@pytest.fixture
def public(scenes: Path) -> Iterator[Path]:
    """A folder that everybody may enter, with shards, a manifest and a tokenizer, where only its owner writes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(scenes, folder / "scenes", ignore=shutil.ignore_patterns(".neo_index"))
        manifest = {"sources": {"text": {"modality": "text", "shards": "train/text-*.tar"}}}  # no clip: no process
        (folder / "scenes" / "manifest.yaml").write_text(json.dumps(manifest))
        (folder / "cache").mkdir()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        yield folder
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_folders_in_which_nothing_can_be_written_are_named_with_the_way_out(
    forks: Server, micro: Path, scenes: Path, public: Path
) -> None:
    recipe, manifest, cache = public / "micro.yaml", public / "scenes" / "manifest.yaml", public / "cache"
    public.chmod(0o755)
    recipe.write_text(micro.read_text().replace(str(scenes), str(public / "scenes")))
    public.chmod(0o555)
    here = {"environment": {"NEO_CACHE": str(cache)}, "cwd": public}

    def said(*argv: str) -> tuple[int, str]:
        return forks.run("tests.cli.dies:as_nobody", [*argv], **here)

    status, output = said("run", str(recipe), f"--run.dir={public / 'run'}")
    assert status == 2, output
    assert f"run.dir: {public / 'run'} cannot be written (Permission denied)" in output
    assert "--run.dir=FOLDER" in output
    check = ("data", "check", str(manifest))
    status, output = said(*check)
    assert status == 2, output
    assert f"the index cannot be written into {cache}" in output
    assert "`store: {cache: FOLDER}`, or $NEO_CACHE" in output
    cache.chmod(0o777)
    status, output = said(*check)
    assert status == 0, output
    assert list(cache.rglob("*.parquet")), "what cannot lie beside the shards"
    cache.chmod(0o555)
    here["environment"] = {"NEO_CACHE": str(public / "none")}
    index = public / "scenes" / "train" / ".neo_index"
    index.mkdir()
    status, output = said(*check)
    assert status == 2, output
    assert f"the index cannot be written into {public / 'none'}" in output
    index.chmod(0o777)
    assert said(*check)[0] == 0
    index.chmod(0o555)
    status, output = said(*check)
    assert status == 0, f"an index that is there is read: {output}"
