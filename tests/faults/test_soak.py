"""The soak, shorter than by hand (`python -m tests.faults.soak`): a run disturbed all the time ends as one alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.soak import run_soak


@pytest.mark.slow
def test_a_run_that_is_disturbed_again_and_again_ends_as_one_left_alone(tmp_path: Path) -> None:
    """Rows 33 to 36 of the faults at once. What happened is printed, with its seed; NEO_SOAK is another one."""
    soak = run_soak(tmp_path, steps=40, seed=int(os.environ.get("NEO_SOAK", "0")), gap=(8.0, 16.0))
    assert sum(soak.happened.values()) >= 1, "the run was over before much could happen: give it more steps"
    assert soak.starts >= 2
