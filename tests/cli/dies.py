"""A command that is killed at a moment of its own, in the tests' processes."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from neo_lightning.cli.main import main

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def run(argv: list[str], folder: str, moment: int, listed: str = "", number: signal.Signals = signal.SIGKILL) -> int:
    """Run a command; a signal in front of its `moment`-th change of a file below `folder`. Changes go into `listed`."""
    seen: list[str] = []

    def watch(event: str, args: tuple[Any, ...]) -> None:
        writes = event == "open" and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if not (writes or event in CHANGES) or not str(args[0]).startswith(folder):
            return
        seen.append(f"{event} {Path(str(args[0])).relative_to(folder)}")
        if len(seen) == moment:
            os.kill(os.getpid(), number)

    torch.set_num_threads(1)
    sys.addaudithook(watch)
    status = main(argv)
    if listed:
        Path(listed).write_text("\n".join(seen))
    return status


def as_nobody(argv: list[str]) -> int:
    """Run a command without the right to write where others may not: root could write anywhere."""
    if os.geteuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    return main(argv)
