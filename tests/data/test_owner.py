"""One owner per folder: two processes, a killed one, and owners on other hosts, whose lock the kernel does not tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from neo_lightning.data import owner
from neo_lightning.data.owner import PATIENCE, OwnedError, owned
from tests.owners import HOLDER, holder


def never(seconds: float) -> None:
    raise AssertionError(f"waited {seconds} s")


def test_a_second_process_is_refused_at_once_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "run.lock"
    with holder(file) as process:
        for _ in range(2):  # a refused one does not take the lock away
            with pytest.raises(OwnedError) as refused, owned(file, what="the run r", wait=never):
                pass
        told = str(refused.value)
        assert told.startswith("the run r is in use by ")
        assert f"pid {process.pid}, since 20" in told
        assert f"on host {json.loads(file.read_text())['host']}" in told
        process.communicate(timeout=60)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"
    with owned(file, what="the run r", wait=never):
        pass


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "run.lock"
    with holder(file) as process:
        process.kill()
        process.wait()
    assert file.stat().st_size, "its file is still there"
    with owned(file, what="the run", wait=never):
        assert json.loads(file.read_text())["pid"] == os.getpid()


def test_the_same_process_cannot_own_twice_and_keeps_what_it_owns(tmp_path: Path) -> None:
    file = tmp_path / "run.lock"
    with owned(file, what="the run"):
        with pytest.raises(OwnedError, match=f"pid {os.getpid()}"), owned(file, what="the run"):
            pass
        script = HOLDER.replace('print("held", flush=True)', "raise SystemExit(3)")
        line = [sys.executable, "-c", script, str(file)]
        found = subprocess.run(line, capture_output=True, text=True, check=False)
        assert "OwnedError" in found.stderr, "the kernel's lock is still held"


def elsewhere(file: Path, seconds_ago: float) -> None:
    """The file of an owner on another host, with its last sign of life."""
    content = {"host": "node7", "boot": "other", "pid": 4711, "since": "2026-01-01", "command": "lightning run demo"}
    file.write_text(json.dumps(content))
    last = time.time() - seconds_ago
    os.utime(file, (last, last))


def test_an_owner_on_another_host_that_has_long_been_silent_is_dead(tmp_path: Path) -> None:
    elsewhere(tmp_path / "run.lock", PATIENCE + 5)
    with owned(tmp_path / "run.lock", what="the run", wait=never):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


def test_an_owner_on_another_host_that_gives_a_sign_of_life_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.lock"
    elsewhere(file, 3)
    waited = []

    def beats(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            os.utime(file)

    with pytest.raises(OwnedError, match="node7, pid 4711, since 2026-01-01"), owned(file, what="the run", wait=beats):
        pass
    assert len(waited) == 2
    assert "Waiting up to 8" in capsys.readouterr().err
    assert json.loads(file.read_text())["host"] == "node7", "it still owns the folder"


def test_a_job_started_again_on_another_host_right_after_a_kill_gets_the_folder(tmp_path: Path) -> None:
    file = tmp_path / "run.lock"
    elsewhere(file, 3)
    waited: list[float] = []
    with owned(file, what="the run", wait=waited.append):
        assert json.loads(file.read_text())["pid"] == os.getpid()
    assert PATIENCE - 5 < sum(waited) <= PATIENCE - 2


def test_without_the_kernels_locks_an_owner_on_this_host_is_watched_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.lock"
    with owned(file, what="the run"):
        mine = file.read_text()
    file.write_text(mine)
    monkeypatch.setattr(owner, "fcntl", None)
    with pytest.raises(OwnedError), owned(file, what="the run", wait=lambda seconds: os.utime(file)):
        pass


def test_a_half_written_file_is_no_owner(tmp_path: Path) -> None:
    file = tmp_path / "run.lock"
    file.write_text('{"host": "nod')
    with owned(file, what="the run", wait=never):
        assert f'"pid": {os.getpid()},' in file.read_text(), "the file is this process's now"


def test_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "BEAT", 0.01)
    file = tmp_path / "run.lock"
    with owned(file, what="the run"):
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 60
        while file.stat().st_mtime == 1:
            assert time.monotonic() < deadline, "the file is never touched"
