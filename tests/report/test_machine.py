"""What a report asks of the machine."""

from __future__ import annotations

import pytest
import torch

from neo_lightning.report.machine import machine_facts


def test_a_run_on_a_cpu_asks_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: asked.append(i) or "a GPU")
    assert machine_facts(torch.device("cpu"))["accelerators"] == []
    assert asked == []
    assert machine_facts(torch.device("cuda"))["accelerators"] == ["a GPU", "a GPU"]
