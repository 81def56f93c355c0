"""Whether two checkpoints fit, on a real file system that is small."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from neo_lightning.training.place import check_room
from neo_lightning.training.saving import CheckpointSaveError
from tests.training.tiny import trainer


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    line = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def of_bytes(checkpoint: int) -> nn.Module:
    return nn.Linear(checkpoint // 12, 1, bias=False)


def test_a_disk_without_room_is_refused_and_one_for_a_single_checkpoint_warned_of(
    small: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    strategy: Any = trainer(tmp_path).strategy
    folder = small / "run" / "checkpoints"
    check_room(strategy, folder, of_bytes(500 << 10))
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"takes up to 0.68 MiB, and 1.00 MiB are free: there is no room for two"):
        check_room(strategy, folder, of_bytes(700 << 10))
    with pytest.raises(CheckpointSaveError, match=r"takes up to 1.17 MiB, and 1.00 MiB are free: make room, or"):
        check_room(strategy, folder, of_bytes(1200 << 10))
    assert not folder.exists()
