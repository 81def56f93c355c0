"""What each rank of a command line does in the tests' processes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from neo_lightning.cli.main import main


def start(folder: str, argv: list[str]) -> None:
    """Run a command; its status goes into `status-RANK`, so that the launcher does not end the ranks that are left."""
    torch.set_num_threads(1)
    (Path(folder) / f"status-{os.environ['LOCAL_RANK']}").write_text(str(main(argv)))
