"""Faults 31 and 32: processes that read are killed, or hang. A killed one costs nothing once; none is waited for."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from inspect import signature
from itertools import islice
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.media.video.process import WALL_SECONDS
from neo_lightning.data.rows import parcel
from neo_lightning.data.rows.loader import LoaderError, WatchedLoader
from neo_lightning.data.store import StoreOptions


class Numbers:
    """Items that are their numbers. Processes are killed on `deadly` ones (so many times each), sleep on `hanging`."""

    def __init__(self, folder: Path, deadly: dict[int, int] | None = None, hanging: int = -1) -> None:
        self.folder, self.deadly, self.hanging = folder, deadly or {}, hanging

    def __getitem__(self, number: int) -> torch.Tensor:
        if len(list(self.folder.glob(f"{number}-*"))) < self.deadly.get(number, 0):
            (self.folder / f"{number}-{os.getpid()}").touch()
            self.die()
        if number == self.hanging:
            self.stuck_here()
        return torch.tensor(number)

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def stuck_here(self) -> NoReturn:
        while True:
            time.sleep(60)


class DiesSending(Numbers):
    """Dies when half of what it sends has come."""

    def die(self) -> None:
        parcel.send_handle = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # in this process only


@pytest.mark.parametrize("dataset", [Numbers, DiesSending])
def test_fault_31_the_work_of_a_killed_worker_is_done_again_once(tmp_path: Path, dataset: type[Numbers]) -> None:
    loader = WatchedLoader(dataset(tmp_path, deadly={5: 1, 8: 1}), range(12), workers=2, timeout=60)
    with pytest.warns(UserWarning, match="a data worker died.*SIGKILL") as warned:
        assert [int(item) for item in loader] == list(range(12))
    died = [warning for warning in warned if issubclass(warning.category, UserWarning)]
    assert len(died) == 2, "beside them newer Pythons warn of every fork"
    loader = WatchedLoader(dataset(tmp_path, deadly={7: 2}), range(12), workers=2, timeout=60)
    came = []
    with pytest.warns(UserWarning, match="a data worker died"), pytest.raises(LoaderError, match="died twice over 7"):
        came.extend(int(item) for item in loader)
    assert came == list(range(7))
    assert not multiprocessing.active_children()


def test_fault_31_idle_workers_that_are_killed_are_replaced(tmp_path: Path) -> None:
    items = iter(WatchedLoader(Numbers(tmp_path), range(12), workers=2, timeout=60))
    assert int(next(items)) == 0
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    with pytest.warns(UserWarning, match="a data worker died"):
        assert [int(item) for item in items] == list(range(1, 12))


def test_fault_32_workers_that_hang_print_their_stacks_and_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    items = iter(WatchedLoader(Numbers(tmp_path, hanging=3), range(12), workers=2, timeout=1))
    assert [int(item) for item in islice(items, 3)] == [0, 1, 2]
    with pytest.raises(LoaderError, match="no data came for 1 s: the workers hang"):
        next(items)
    assert "stuck_here" in capfd.readouterr().err
    assert not multiprocessing.active_children()
    given = signature(NeoDataModule).parameters["loader_timeout"].default
    assert given > max(WALL_SECONDS, StoreOptions().deadline)


SCRIPT = """
import multiprocessing, sys, time
from neo_lightning.data.rows.loader import WatchedLoader

class Hanging:
    def __getitem__(self, number):
        time.sleep(600 * (number == 3))

items = iter(WatchedLoader(Hanging(), range(12 if sys.argv[1] == "ends" else 3), workers=2, timeout=600))
next(items)
print(*(process.pid for process in multiprocessing.active_children()), flush=True)
if sys.argv[1] == "is killed":
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["ends", "is killed"])
def test_fault_32_no_worker_outlives_the_run_or_keeps_it_from_ending(how: str, tmp_path: Path) -> None:
    """The run ends while a worker hangs, or is killed while its workers wait for work."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as run:
        assert run.stdout is not None
        workers = [int(word) for word in run.stdout.readline().split()]
        assert len(workers) == 2
        if how == "is killed":
            run.kill()
        status = run.wait(30)
    assert status == (0 if how == "ends" else -signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (alive := [pid for pid in workers if Path(f"/proc/{pid}").exists()]) and time.monotonic() < deadline:
        os.sched_yield()
    assert not alive
