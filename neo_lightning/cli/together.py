"""Ranks that a launcher has started start together or not at all: what refuses one refuses all.

    rank 0   own the folder: refused --.                       status 2, "... is in use by ..."
    rank 1   -----------------------------> the store -------> status 2, "rank 0 cannot start: ... is in use by ..."

A refused rank would otherwise leave the others waiting for it until the process group gives up, unless the launcher
ends them. They meet in the store in which the process group will meet (rank 0's, or torchrun's), so nothing of a device
is touched. Processes that Lightning starts itself need none of it: rank 0 has passed when it starts them, and it ends
when one of them does.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..data.facts import RetryError
from ..exits import CANNOT_SAVE, TRY_AGAIN, USER_ERROR, disk_full
from .errors import UserError, describe

RANK_0_HAS_STARTED = "NEO_LIGHTNING_RANK_0_HAS_STARTED"
"""Set for the processes that Lightning starts: a folder with what rank 0 shares with them."""


class Start:
    """What the ranks of a trainer do before it trains."""

    def __init__(self, trainer: Any) -> None:
        self.rank, self.world = trainer.global_rank, trainer.world_size
        self._store: Any = None
        if self.world == 1 or RANK_0_HAS_STARTED in os.environ:
            return
        if trainer.strategy.launcher is not None:
            os.environ[RANK_0_HAS_STARTED] = folder = tempfile.mkdtemp(prefix="neo_lightning-")
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return
        from ..training.meeting import meet

        strategy = trainer.strategy
        self._store = meet(strategy, getattr(strategy, "setup_timeout", 30.0))
        self._store.set_timeout(strategy._timeout)  # kept: the process group finds rank 0's server where it is

    @contextmanager
    def together(self, part: str) -> Iterator[None]:
        """Do a part of the start on every rank; returns when all have done it.

        Args:
            part: its name, the same on all ranks.

        Raises:
            UserError, RetryError: another rank could not do it; the lowest such rank's own words.
        """
        try:
            yield
        except Exception as error:
            status = TRY_AGAIN if isinstance(error, RetryError) else CANNOT_SAVE if disk_full(error) else USER_ERROR
            with suppress(RuntimeError):  # nobody came to hear it
                self._settle(part, [self.rank, status, describe(error)])
            raise
        if verdict := self._settle(part, None):
            rank, status, said = verdict
            if status == CANNOT_SAVE:
                raise OSError(errno.ENOSPC, f"rank {rank} cannot start: {said}")
            kind = RetryError if status == TRY_AGAIN else UserError
            raise kind(f"rank {rank} cannot start: {said}")

    @property
    def share(self) -> tuple[int, int] | None:
        """(number, of how many) of this process where work at the start is shared; None where rank 0 has done it."""
        if self._store is None:
            return None if self.rank else (0, 1)
        return self.rank, self.world

    def first(self, part: str, problem: str) -> str:
        """The lowest rank's problem with a part of the start; "" where no rank has one."""
        verdict = self._settle(part, [self.rank, 0, problem] if problem else None)
        return verdict[2] if verdict else ""

    def shared(self, part: str, make: Callable[[], str]) -> str:
        """A text that rank 0 makes, on every rank.

        Args:
            part: its name, the same on all ranks.
            make: called on rank 0; on others where rank 0 has left nothing.

        Raises:
            UserError, RetryError: rank 0 could not make it.
        """
        text = ""
        with self.together(part):
            if self._store is None:
                return self._left(part, make)
            if self.rank == 0:
                text = make()
                self._store.set(f"neo_lightning/{part}/text", text)
        return text or self._store.get(f"neo_lightning/{part}/text").decode()

    def _left(self, part: str, make: Callable[[], str]) -> str:
        """The same for processes that Lightning starts, after rank 0 and on its machine."""
        file = Path(os.environ.get(RANK_0_HAS_STARTED, "")) / part
        if self.rank and file.is_file():
            return file.read_text(encoding="utf-8")
        text = make()
        if self.world > 1 and file.parent.is_dir():
            file.write_text(text, encoding="utf-8")
        return text

    def _settle(self, part: str, problem: list[Any] | None) -> list[Any] | None:
        """What the lowest rank that has a problem says. Rank 0 hears all and answers, and leaves when all know."""
        if self._store is None:
            return problem
        key = f"neo_lightning/{part}"
        self._store.set(f"{key}/{self.rank}", json.dumps(problem))
        if self.rank == 0:
            said = [json.loads(self._store.get(f"{key}/{rank}")) for rank in range(self.world)]
            self._store.set(f"{key}/verdict", json.dumps(next(filter(None, said), None)))
        verdict = json.loads(self._store.get(f"{key}/verdict"))
        if self._store.add(f"{key}/heard", 1) == self.world:
            self._store.set(f"{key}/all", "")
        if self.rank == 0:
            self._store.wait([f"{key}/all"])
        return verdict
