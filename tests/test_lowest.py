"""The lower bounds of pyproject.toml: each dependency has one, and `make lowest` runs the tests with just those."""

from __future__ import annotations

import ast
import os
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def bounds(*extras: str) -> Iterator[tuple[Requirement, Version]]:
    """Each dependency with its lowest version."""
    for line in [
        *PROJECT["dependencies"],
        *(line for extra in extras for line in PROJECT["optional-dependencies"][extra]),
    ]:
        requirement = Requirement(line)
        (lowest,) = [bound.version for bound in requirement.specifier if bound.operator == ">="]
        yield requirement, Version(lowest)


def test_every_dependency_has_a_lower_bound_that_is_met() -> None:
    assert list(bounds(*PROJECT["optional-dependencies"])), "ValueError: one has no bound, or two"
    older = [
        f"{r.name} {version(r.name)} < {lowest}" for r, lowest in bounds("dev") if Version(version(r.name)) < lowest
    ]
    assert not older


def test_what_the_package_imports_is_declared() -> None:
    """Not only by another package, which may drop it."""
    files = (ROOT / "neo_lightning").rglob("*.py")
    sources = [path.read_text(encoding="utf-8") for path in files if path.parent.name != "harness"]  # others' programs
    found = {name.partition(".")[0] for source in sources for name in imported(source)}
    found -= {"neo_lightning", "triton", *sys.stdlib_module_names}  # Triton comes with torch, where there is one
    names = packages_distributions()
    declared = {requirement.name.lower() for requirement, _ in bounds(*PROJECT["optional-dependencies"])}
    known = {
        name: {other.lower().replace("_", "-") for other in names.get(name, [name.replace("_", "-")])} for name in found
    }
    assert not [name for name, providers in known.items() if not providers & declared]


def imported(source: str) -> Iterator[str]:
    """Modules that a source imports by their full names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


@pytest.mark.skipif("NEO_LOWEST" not in os.environ, reason="only in the environment of `make lowest`")
def test_the_lowest_versions_are_those_that_are_tested() -> None:
    newer = {r.name: version(r.name) for r, lowest in bounds("dev") if Version(version(r.name)) != lowest}
    assert not newer, "the bound is not the version that was tried"
