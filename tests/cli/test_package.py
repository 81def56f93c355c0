"""What a user gets: quick help, two names for one program, recipes inside the wheel."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from neo_lightning.cli.main import COMMANDS, main

ROOT = Path(__file__).resolve().parents[2]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from neo_lightning.cli.main import main\n"
        "assert main(['--help']) == main(['--version']) == main(['run', '--help']) == 0\n"
        "heavy = {'torch', 'lightning', 'jsonargparse', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in COMMANDS)
    assert "neo_ov_2b" in done.stdout


def test_a_command_on_shards_imports_no_lightning(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text("{}\n")
    line = ["data", "import", "--format", "llava", "--input", "records.jsonl", "--out", "out", "--strict"]
    code = (
        "import sys; from neo_lightning.cli.main import main\n"
        f"assert main({[*line, '--workers', '1']}) == 2\n"
        "assert not {'lightning', 'torchmetrics', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "records.jsonl, line 1" in done.stderr


def test_both_names_are_this_program() -> None:
    scripts = {point.name: point.value for point in entry_points(group="console_scripts")}
    assert scripts["lightning"] == scripts["neo-lightning"] == "neo_lightning.cli.main:main"


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rnu"]) == 2
    assert "Did you mean 'run'?" in capsys.readouterr().err


def test_recipes_and_manifests_are_in_the_wheel(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("neo_lightning", "recipes", "data_manifests"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, source)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "installed")
    for folder in ("recipes", "data_manifests"):
        files = {path.name for path in (ROOT / folder).glob("*.yaml")}
        assert files
        assert {f"neo_lightning/{folder}/{name}" for name in files} <= names
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "neo_lightning").rglob("*.py")}
    assert modules <= names, "every module is in it"
    assert not [name for name in names if name.startswith("tests/")]
    code = "from neo_lightning.cli.recipe import find; print(find('demo')); print(find('neo', 'data_manifests'))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={"PYTHONPATH": str(tmp_path / "installed")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = [Path(line) for line in done.stdout.split()]
    assert found == [
        tmp_path / "installed" / "neo_lightning" / "recipes" / "demo.yaml",
        tmp_path / "installed" / "neo_lightning" / "data_manifests" / "neo.yaml",
    ], done.stderr
