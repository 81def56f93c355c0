"""The lower bounds of pyproject.toml: each dependency has one, and `make lowest` runs the tests with just those."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).resolve().parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]


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


@pytest.mark.skipif("NEO_LOWEST" not in os.environ, reason="only in the environment of `make lowest`")
def test_the_lowest_versions_are_those_that_are_tested() -> None:
    newer = {r.name: version(r.name) for r, lowest in bounds("dev") if Version(version(r.name)) != lowest}
    assert not newer, "the bound is not the version that was tried"
