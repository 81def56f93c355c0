"""A Python of its own that has what transformers needs and nothing of ours: where other people load an export.

Nothing is installed: the packages of this environment that it may have are linked into it.
"""

from __future__ import annotations

import os
import subprocess
import venv
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

SHARED = ("torch", "torchvision", "transformers", "av")
"""What an export asks for; with what they require themselves."""


def make(folder: Path, *more: str) -> Path:
    """The environment's folder, made in it; `more` packages than an export asks for."""
    home = folder / "elsewhere"
    venv.create(home, with_pip=False, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    for name in _with_requirements((*SHARED, *more)):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
            link = packages / top
            if not link.exists():
                link.symlink_to(Path(str(found.locate_file(top))))
    return home


def run(home: Path, program: str, *arguments: str, cwd: Path, environment: Mapping[str, str] | None = None) -> str:
    """Output of a program there: offline, and without a way back to this checkout.

    Raises:
        CalledProcessError: it failed; its output is printed.
    """
    file = home / "program.py"  # not `-c`, which would import from the folder that it runs in
    file.write_text(program, encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | dict(environment or {})
    kept |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    kept.pop("PYTHONPATH", None)
    line = [str(home / "bin" / "python"), str(file), *arguments]
    done = subprocess.run(line, cwd=cwd, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    done.check_returncode()
    return done.stdout


def _with_requirements(names: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    left = list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # of another system
        found.add(name)
        needed = [Requirement(line) for line in requires]
        left += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found
