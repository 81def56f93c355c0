"""The processes that Lightning starts itself (`trainer.devices=8`, no launcher): they end with one status.

Lightning's own watch kills all of them as soon as one has ended with a status that is not 0, which a rank has that was
asked to stop and has saved. Here the others end by themselves first: they were asked as well, or a collective has told
them that one is gone.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from neo_lightning.exits import RANK_LOST

_PATIENCE = 45.0
"""Seconds for those that are left."""


class Launcher(_SubprocessScriptLauncher):
    """Starts a process for each further device of this machine."""

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Any = None, **kwargs: Any) -> Any:
        """Start them, then do what all do."""
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally and not self.procs:
            self._call_children_scripts()
            atexit.register(self._wait)
            for rank, process in enumerate(self.procs, start=1):
                threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()
        return function(*args, **kwargs)

    def _watch(self, rank: int, process: subprocess.Popen[bytes]) -> None:
        if not (status := process.wait()):
            return
        time.sleep(_PATIENCE)
        print(f"error: rank {rank} ended with status {status}, and rank 0 did not", file=sys.stderr, flush=True)
        self._kill()
        os._exit(status if status > 0 else RANK_LOST)

    def _wait(self) -> None:
        """Rank 0 is the last to end, and leaves nobody behind."""
        stop = time.monotonic() + _PATIENCE
        for process in self.procs:
            try:
                process.wait(max(0.0, stop - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._kill()

    def _kill(self) -> None:
        for process in self.procs:
            if process.poll() is None:
                process.kill()
