"""What a process that a run starts must find in its environment."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from neo_lightning.cli.environment import let_segments_grow, share_cores
from neo_lightning.cli.main import main


def test_cores_are_shared_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    try:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        share_cores(1)
        assert "OMP_NUM_THREADS" not in os.environ
        share_cores(1000)
        assert os.environ["OMP_NUM_THREADS"] == "1"
        assert torch.get_num_threads() == 1
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        share_cores(2)
        assert os.environ["OMP_NUM_THREADS"] == "7"
    finally:
        torch.set_num_threads(threads)


def test_cudas_segments_may_grow_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:64")
    assert main(["nonsense"]) == 2
    assert "PYTORCH_ALLOC_CONF" not in os.environ
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "pinned_use_background_threads:True")
    let_segments_grow(os.environ)
    assert os.environ["PYTORCH_ALLOC_CONF"] == "pinned_use_background_threads:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF")
    assert main(["nonsense"]) == 2  # any command: before torch is imported
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_commands_are_told_before_torch_is_imported() -> None:
    program = (
        "import os, sys\n"
        "from neo_lightning.cli import main as cli\n"
        "def look(name):\n"
        "    print('torch' in sys.modules, os.environ.get('PYTORCH_ALLOC_CONF'))\n"
        "    raise cli.UserError('seen')\n"
        "cli.import_module = look\n"
        "cli.main(['run', 'x'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["False", "expandable_segments:True"], done.stderr
