"""The Triton kernels compiled for an H100 without one: nothing spills, and shared memory suffices."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
]

ATTENTION = [f"attention:{kernel}:256:128" for kernel in ("forward", "key_value", "query")]
CASES = [
    *ATTENTION,
    *(
        case
        for kernel in ("forward", "backward")
        for case in (
            f"qk_norm_rope:{kernel}:16:128",
            f"rms_norm:{kernel}:4096",
            f"swiglu:{kernel}",
        )
    ),
]
"""The released models' sizes: heads of 128, hidden 4096 (9B)."""


@pytest.fixture(scope="module")
def compiled():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.ops.sm90", *CASES]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-5000:]
    return {row["case"]: row for row in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("case", CASES)
def test_nothing_spills_all_fits_and_nothing_is_atomic(compiled, case):
    found = compiled[case]
    assert found["stack"] == found["spills"] == 0
    assert found["registers"] <= 255
    assert found["atomics"] == 0, "sums would depend on the order in which programs run"
    assert found["shared"] <= 227 * 1024


@pytest.mark.parametrize("case", ATTENTION)
def test_products_use_hoppers_matrix_units(compiled, case):
    assert compiled[case]["warpgroup_products"] > 0
