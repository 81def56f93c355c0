"""Fault 36, points 10, 11: a rank that dies, freezes or hangs ends all of them within the set silence, and is named."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from neo_lightning.exits import BUG, RANK_LOST, USER_ERROR
from tests.faults.runs import LINK, losses, make_data, write_recipe
from tests.forks import Run, Server

SILENCE = 3.0
"""Seconds."""
FOR_EVER = 100_000
ADDRESS = "10.77.0.{}"


def slack() -> float:
    """Seconds that the end may take beyond the silence: 3, as often as a core has processes that want it."""
    return 3 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


def pulse(**options: float) -> list[str]:
    """The pulse of a test."""
    named = [f"--trainer.callbacks.{name}={value}" for name, value in options.items()]
    return ["--trainer.callbacks+=neo_lightning.training.callbacks.Pulse", *named]


def fault(what: str, **options: int) -> list[str]:
    named = [f"--trainer.callbacks.{name}={value}" for name, value in {"what": what, **options}.items()]
    return ["--trainer.callbacks+=tests.faults.runs.Fault", *named]


class Two:
    """Two ranks of one run."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run
        self.pids = [int((folder / f"pid-{rank}").read_text()) for rank in range(2)]
        self.handles = [os.pidfd_open(pid) for pid in self.pids]

    def seconds_to_end(self, rank: int) -> float:
        """Wait for the fault and for a rank's end: seconds between them."""
        assert select.select([self.handles[rank]], [], [], 300)[0], "it goes on for ever"
        fault = self.folder / "run" / "fault-at"
        assert fault.exists(), self.output()
        return time.monotonic() - float(fault.read_text())

    def output(self) -> str:
        """When all have ended."""
        text = self.run.stdout.read()
        self.run.wait()
        return text


@contextmanager
def two_ranks(
    forks: Server, data: Path, folder: Path, *argv: str, steps: int = FOR_EVER, hosts: tuple[str, ...] = ()
) -> Iterator[Two]:
    """`lightning run` on two ranks, neither of which is killed because the other has ended."""
    recipe = write_recipe(folder / "r.yaml", run=folder / "run", data=data, steps=steps)
    line = ["run", str(recipe), "--trainer.devices=2", *argv]
    call, where = ("command_on_a_host", [hosts]) if hosts else ("command_of_rank", [])
    network = {"MASTER_ADDR": ADDRESS.format(1), "GLOO_SOCKET_IFNAME": LINK} if hosts else {}
    with forks.start(
        f"tests.faults.runs:{call}", str(folder), *where, line, ranks=2, together=False, environment=network
    ) as run:
        for _ in range(2):
            next(line for line in run.stdout if "started " in line)
        two = Two(folder, run)
        yield two
        for handle in two.handles:
            os.close(handle)


@pytest.fixture
def hosts() -> Iterator[tuple[str, ...]]:
    """Two network namespaces with a cable between them."""
    names = tuple(f"neo-{os.getpid()}-{number}" for number in (1, 2))

    def ip(*words: str) -> None:
        done = subprocess.run(["ip", *words], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")

    if shutil.which("ip") is None:
        pytest.skip("no network namespaces here: there is no ip")
    try:
        for name in names:
            ip("netns", "add", name)
        first, second = names
        ip("link", "add", LINK, "netns", first, "type", "veth", "peer", "name", LINK, "netns", second)
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"{ADDRESS.format(number)}/24", "dev", LINK)
            ip("-n", name, "link", "set", LINK, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def errors(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error: ")]


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock"]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [0, 1])
def test_point_10_a_frozen_rank_ends_the_other_and_writes_nothing_when_it_wakes(
    forks: Server, data: Path, tmp_path: Path, frozen: int
) -> None:
    """Rank 0 is the store's host as well."""
    with two_ranks(forks, data, tmp_path, *pulse(silence_s=SILENCE), *fault("stop", rank=frozen)) as two:
        seconds = two.seconds_to_end(1 - frozen)
        assert 0.8 * SILENCE < seconds < SILENCE + slack()
        before = contents(tmp_path / "run")
        os.kill(two.pids[frozen], signal.SIGCONT)
        output = two.output()
    assert two.run.statuses == (RANK_LOST, RANK_LOST), output
    assert contents(tmp_path / "run") == before
    said, woken = errors(output)
    assert f"rank {frozen} (" in said
    assert re.search(r"last seen in step [0-6], phase \w+.*: dead, frozen, or ", said), "as of its last beat"
    assert (
        f"The last committed checkpoint is {tmp_path}/run/checkpoints/step-00000004: the same command goes on" in said
    )
    assert f"rank {frozen} (" in woken
    assert "was frozen for" in woken
    assert "Traceback" not in output
    stacks = (tmp_path / "run" / "stacks" / f"rank-{1 - frozen}.txt").read_text()
    assert "training_step" in stacks, "where the training thread waited"


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 1])
def test_point_11_a_dead_rank_is_named_and_the_run_goes_on_equally(
    forks: Server, data: Path, tmp_path: Path, dead: int
) -> None:
    steps = 12
    (tmp_path / "whole").mkdir()
    with two_ranks(forks, data, tmp_path / "whole", steps=steps) as whole:
        assert whole.output() is not None
    assert whole.run.status == 0
    line = pulse(silence_s=30)
    with two_ranks(forks, data, tmp_path, *line, *fault("kill", rank=dead), steps=steps) as two:
        seconds = two.seconds_to_end(1 - dead)
        output = two.output()
    assert seconds < 10 + slack(), "the broken connection tells, not the silence"
    assert two.run.statuses[dead] == -signal.SIGKILL
    assert two.run.statuses[1 - dead] == RANK_LOST, output
    (said,) = errors(output)
    assert f"rank {dead} (" in said
    assert "step-00000004: the same command goes on from it" in said
    assert "Traceback" not in output
    with two_ranks(forks, data, tmp_path, *line, steps=steps) as again:
        output = again.output()
    assert again.run.status == 0, output
    assert "going on from" in output
    assert losses(tmp_path / "run") == losses(tmp_path / "whole" / "run")


@pytest.mark.slow
def test_fault_36_a_rank_that_hangs_is_named_with_its_place(forks: Server, data: Path, tmp_path: Path) -> None:
    allowed = 4
    line = pulse(silence_s=SILENCE, least_step_s=allowed)
    with two_ranks(forks, data, tmp_path, *line, *fault("loop")) as two:
        seconds = [two.seconds_to_end(rank) for rank in range(2)]
        output = two.output()
    assert two.run.statuses == (RANK_LOST, RANK_LOST), output
    assert allowed < seconds[0] < 20 * allowed + slack()
    for said in errors(output):
        assert "rank 1 (" in said
        assert "hangs in step 6, phase step" in said
        assert "runs.py:" in said
        assert "(stay_here)" in said or "(on_train_batch_start)" in said
    assert "runs.py" in (tmp_path / "run" / "stacks" / "rank-1.txt").read_text()


@pytest.mark.slow
def test_fault_36_a_slow_rank_lives_and_is_named(forks: Server, data: Path, tmp_path: Path) -> None:
    with two_ranks(forks, data, tmp_path, *pulse(silence_s=SILENCE), *fault("slow", step=2), steps=24) as two:
        output = two.output()
    assert two.run.status == 0, output
    assert "rank 1 (" in output
    assert "is slow: " in output
    text = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    names, last = text[0].split(","), text[-1].split(",")
    found = dict(zip(names, last, strict=True))
    assert float(found["slowest_rank"]) == 1
    assert float(found["slowest_s"]) > 0.4


@pytest.mark.slow
def test_point_15_a_bug_of_one_rank_is_told_by_all(forks: Server, data: Path, tmp_path: Path) -> None:
    with two_ranks(forks, data, tmp_path, *pulse(silence_s=30), *fault("raise")) as two:
        seconds = two.seconds_to_end(0)
        output = two.output()
    assert seconds < 15 + slack()
    assert two.run.statuses == (BUG, BUG), "a launcher that restarts lost ranks must not restart a bug"
    (said,) = errors(output)
    assert "has ended in step 6, phase step: KeyError: 'a bug of this rank'" in said


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process a file system of its own")
def test_a_folder_that_a_host_does_not_share_is_refused(forks: Server, data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    recipe = write_recipe(tmp_path / "r.yaml", run=tmp_path / "run", data=data, steps=1)
    call, line = "tests.faults.runs:command_with_own_disk", ["run", str(recipe), "--trainer.devices=2"]
    with forks.start(call, str(tmp_path), line, ranks=2, together=False) as run:
        output = run.stdout.read()
        run.wait()
    assert run.statuses == (USER_ERROR, USER_ERROR), output
    assert f"{tmp_path}/run/checkpoints is not the same folder on " in output
    assert not (tmp_path / "run" / "checkpoints").exists(), "nothing is left of the look"


@pytest.mark.slow
def test_point_10_a_cut_link_ends_both_hosts_and_each_names_the_other(
    forks: Server, data: Path, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    with two_ranks(forks, data, tmp_path, *pulse(silence_s=SILENCE), *fault("cut"), hosts=hosts) as two:
        seconds = [two.seconds_to_end(rank) for rank in range(2)]
        output = two.output()
    assert two.run.statuses == (RANK_LOST, RANK_LOST), output
    assert max(seconds) < SILENCE + slack(), output
    of_host_1, of_host_2 = sorted(errors(output))
    assert "error: rank 1 (" in of_host_1, "what rank 0 has seen"
    assert "error: there is no connection to rank 0 (" in of_host_2
    assert all("step-00000004: the same command goes on" in said for said in (of_host_1, of_host_2))


@pytest.mark.slow
def test_point_10_a_rank_that_never_comes_is_not_waited_for_as_long_as_for_a_collective(
    forks: Server, data: Path, tmp_path: Path
) -> None:
    recipe = write_recipe(tmp_path / "r.yaml", run=tmp_path / "run", data=data, steps=1)
    strategy = "neo_lightning.training.strategy.NeoStrategy"
    line = ["run", str(recipe), "--trainer.devices=2", f"--trainer.strategy={strategy}"]
    line.append("--trainer.strategy.setup_timeout=0.05")
    began = time.monotonic()
    status, output = forks.run("tests.faults.runs:rank_0_alone", str(tmp_path), line, ranks=2, together=False)
    assert status == RANK_LOST, output
    (said,) = errors(output)
    assert "rank 0 did not meet the other 1 at 127.0.0.1:" in said
    assert "within 0.05 minutes (strategy.setup_timeout)" in said
    assert time.monotonic() - began < 300, "timeout_minutes is half an hour"
