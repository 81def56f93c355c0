"""The Triton kernels without a GPU: this folder's tests again, in a process with Triton's interpreter."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .support import INTERPRETED

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the kernels run in this process"),
]


@pytest.mark.slow
def test_the_kernels_pass_this_folders_tests():
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    folder = str(Path(__file__).parent)
    command = [sys.executable, "-m", "pytest", "-k", "triton", "-p", "no:cacheprovider", folder]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    assert " passed" in run.stdout
