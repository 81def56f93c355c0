"""What a process that a run starts must find in its environment."""

from __future__ import annotations

import os

import pytest
import torch

from neo_lightning.cli.environment import share_cores


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
