"""A run that is killed and resumed is the run that was not: the same losses and weights, bit for bit."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file

from neo_lightning.checkpoint import commit
from neo_lightning.training.callbacks import CommitCheckpoint
from neo_lightning.training.module import NeoModule
from neo_lightning.training.strategy import CheckpointSaveError
from tests.forks import Server, clean_environment

from .tiny import TinyData, module, stages, trainer

TRAININGS = "tests.training.run_tiny"


class Losses(Callback):
    """Step -> loss."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.seen[pl_module.report.step] = pl_module.report.loss


@contextmanager
def started_by_lightning(devices: int, *jobs: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
    """The trainings in processes that Lightning itself starts; none outlives the block."""
    command = [sys.executable, "-m", TRAININGS, str(devices), json.dumps(jobs)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment(), process_group=0
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def read_until(stdout: Iterable[str], start: str) -> list[str]:
    """Lines of a run up to and including the one that begins with `start`."""
    lines = []
    for line in stdout:
        lines.append(line.rstrip())
        if line.startswith(start):
            return lines
    raise AssertionError(f"{start!r} never came:\n" + "\n".join(lines[-40:]))


def losses(lines: list[str], name: str) -> dict[int, float]:
    """Step -> loss of the job in folder `name`."""
    words = [line.split() for line in lines if line.startswith(f"{name} ")]
    return {int(w[1]): float(w[2]) for w in words if w[1].isdigit()}


def fit(folder: Path, resume: Path | None = None, **options: Any) -> tuple[dict[int, float], NeoModule]:
    """One run in this process."""
    watch, run = Losses(), stages()
    net = module(run)
    trainer(folder, watch, **options).fit(net, datamodule=TinyData(run), ckpt_path=resume)
    return watch.seen, net


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[int, float], dict[str, torch.Tensor]]:
    """A run that nobody disturbed: its folder, losses, weights."""
    folder = tmp_path_factory.mktemp("whole")
    seen, net = fit(folder)
    assert net.model is not None
    assert len(set(seen.values())) == 12  # the losses can tell steps apart
    return folder, seen, {name: p.detach() for name, p in net.model.named_parameters()}


@pytest.mark.parametrize("done", [3, 4, 6, 9])
def test_resuming_at_any_checkpoint_changes_nothing(whole: Any, tmp_path: Path, done: int) -> None:
    """Within stage 1, on the boundary of the stages, and within stage 2."""
    folder, seen, weights = whole
    rest, net = fit(tmp_path, folder / "checkpoints" / f"step-{done:08d}")
    assert rest == {step: loss for step, loss in seen.items() if step >= done}
    assert net.model is not None
    assert all(torch.equal(p, weights[name]) for name, p in net.model.named_parameters())


def test_killed_in_the_middle_of_stage_two(forks: Server, whole: Any, tmp_path: Path) -> None:
    _, seen, weights = whole
    kill_at = random.Random(os.getpid()).choice([7, 8])  # after the checkpoint of step 6, before that of step 9
    folder = tmp_path / "run"
    job = {"folder": str(folder), "steps": 10_000, "stages": (4, 8), "workers": 1}
    with forks.start(f"{TRAININGS}:run", 1, [job]) as process:
        lines = read_until(process.stdout, f"run {kill_at} ")
        process.kill()
        assert process.status == -signal.SIGKILL
    assert losses(lines, "run") == {step: loss for step, loss in seen.items() if step <= kill_at}
    last = commit.latest(folder / "checkpoints")
    assert last is not None
    assert 3 <= commit.step_of(last) <= 12, "that of step 6 may still have been on its way to the disk"
    rest, net = fit(folder, last)
    assert rest == {step: loss for step, loss in seen.items() if step >= commit.step_of(last)}
    assert net.model is not None
    assert all(torch.equal(p, weights[name]) for name, p in net.model.named_parameters())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_stops_cleanly(whole: Any, tmp_path: Path, number: signal.Signals) -> None:
    _, seen, weights = whole
    ask_at = 5

    class Ask(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            if trainer.global_step == ask_at:
                os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    watch, run = Losses(), stages()
    first = trainer(tmp_path, watch, Ask())
    first.fit(module(run), datamodule=TinyData(run))
    assert first.callbacks[-1].interrupted  # type: ignore[attr-defined]
    assert signal.getsignal(number) == before
    last = commit.latest(tmp_path / "checkpoints")
    assert last is not None
    assert commit.step_of(last) == ask_at + 1 == max(watch.seen) + 1
    rest, net = fit(tmp_path, last)
    assert {**watch.seen, **rest} == seen
    assert net.model is not None
    assert all(torch.equal(p, weights[name]) for name, p in net.model.named_parameters())


def test_killed_during_a_save_the_last_one_stays(forks: Server, whole: Any, tmp_path: Path) -> None:
    _, seen, _ = whole
    job = {"folder": str(tmp_path), "dies_in_second_save": True}
    status, output = forks.run(f"{TRAININGS}:run", 1, [job])
    assert status == -signal.SIGKILL, output
    folder = tmp_path / "checkpoints"
    assert [p.name for p in folder.iterdir() if p.name.startswith(".tmp-")]
    last = commit.latest(folder)
    assert last == folder / "step-00000003"
    rest, _ = fit(tmp_path, last)
    assert rest == {step: loss for step, loss in seen.items() if step >= 3}
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".tmp-")]  # swept when the run went on


def test_a_full_disk_keeps_the_old_checkpoint_and_then_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, watch = stages(), Losses()
    real, calls = torch.save, []

    def full(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        real(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    saver = CommitCheckpoint(every_n_steps=2, stop_after_failures=3, asynchronous=False)
    with pytest.raises(CheckpointSaveError, match=r"3 saves in a row failed.*No space left"):
        trainer(tmp_path, watch, callbacks=[watch, saver]).fit(module(run), datamodule=TinyData(run))
    assert max(watch.seen) == 7  # the saves after 4 and 6 steps failed and the run went on; the one after 8 ended it
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_checkpoint_of_another_model_is_refused_with_the_differences(whole: Any, tmp_path: Path) -> None:
    folder, _, _ = whole
    run = stages()
    from dataclasses import replace

    from .tiny import CONFIG

    other = NeoModule(run, model=replace(CONFIG, hidden_size=32, num_hidden_layers=2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"does not fit this model .*\n  not in this model: .*layers\.2\."):
        trainer(tmp_path).fit(other, datamodule=TinyData(run), ckpt_path=folder / "checkpoints" / "step-00000006")


class _Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def test_a_malicious_checkpoint_runs_nothing(whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, _ = whole
    monkeypatch.chdir(tmp_path)
    bad = tmp_path / "step-00000006"
    bad.mkdir()
    for file in (folder / "checkpoints" / "step-00000006").iterdir():
        (bad / file.name).write_bytes(file.read_bytes())
    (bad / "meta.pt").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(ValueError, match=r"meta\.pt is not what was written"):
        fit(tmp_path, bad)
    assert not (tmp_path / "executed").exists()


def test_random_states_are_restored(whole: Any, tmp_path: Path) -> None:
    """What a user's callback draws goes on as well."""

    class Draw(Callback):
        def __init__(self) -> None:
            self.drawn: dict[int, tuple[float, float, float]] = {}

        def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
            numbers = (float(torch.rand(())), float(np.random.rand()), random.random())
            self.drawn[trainer.global_step] = numbers

    def draw(steps: int, resume: Path | None = None) -> dict[int, tuple[float, float, float]]:
        watch, run = Draw(), stages()
        trainer(tmp_path, watch, steps=steps).fit(module(run), datamodule=TinyData(run), ckpt_path=resume)
        return watch.drawn

    first = draw(12)
    rest = draw(12, tmp_path / "checkpoints" / "step-00000006")
    assert rest == {step: numbers for step, numbers in first.items() if step >= 6}


@pytest.mark.slow
def test_two_ranks_restart_exactly_and_agree_with_one(forks: Server, whole: Any, tmp_path: Path) -> None:
    """FSDP2 on two CPU processes: killed and resumed; against one process; checkpoints from 2 to 1 and from 1 to 2."""
    folder, seen, weights = whole
    cut, full, from_one = (str(tmp_path / name) for name in ("cut", "full", "from_one"))
    with started_by_lightning(2, {"folder": cut, "steps": 10_000}) as process:
        assert process.stdout is not None
        lines = read_until(process.stdout, "cut 8 ")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = losses(lines, "cut")
    last = commit.latest(Path(cut) / "checkpoints")
    assert last is not None
    assert 3 <= commit.step_of(last) <= 12
    one = {"folder": from_one, "checkpoint": str(folder / "checkpoints" / "step-00000006")}
    status, output = forks.run(
        f"{TRAININGS}:run", 2, [{"folder": full, "asks": True}, {"folder": cut, "resume": True}, one], ranks=2
    )
    assert status == 0, output
    lines = output.splitlines()
    whole_two = losses(lines, "full")
    assert {**first, **losses(lines, "cut")} == whole_two
    a, b = (load_file(Path(f) / "final.safetensors") for f in (full, cut))
    assert all(torch.equal(a[name], b[name]) for name in weights)
    for step, loss in seen.items():  # two ranks add up in another order than one
        assert whole_two[step] == pytest.approx(loss, rel=1e-5)
    for step, loss in losses(lines, "from_one").items():
        assert seen[step] == pytest.approx(loss, rel=1e-5)
    rest, _ = fit(tmp_path, Path(full) / "checkpoints" / "step-00000006")
    assert sorted(rest) == list(range(6, 12))
    for step, loss in rest.items():
        assert loss == pytest.approx(seen[step], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_copies_of_the_model_agree_with_one(forks: Server, whole: Any, tmp_path: Path, ranks: int) -> None:
    """Copies that are whole, or shared by two ranks each: the losses of one process; checkpoints fit every layout."""
    _, seen, weights = whole
    full, rest, shared = (str(tmp_path / name) for name in ("full", "rest", "shared"))
    half = {"shard_size": ranks // 2}
    checkpoint = "checkpoints/step-00000006"
    jobs = (
        {"folder": full, **half},
        {"folder": rest, "checkpoint": f"{full}/{checkpoint}", **half},
        {"folder": shared, "checkpoint": f"{full}/{checkpoint}"},
    )
    status, output = forks.run(f"{TRAININGS}:run", ranks, jobs, ranks=ranks)
    assert status == 0, output
    lines = output.splitlines()
    for step, loss in losses(lines, "full").items():
        assert seen[step] == pytest.approx(loss, rel=1e-5)
    a, b = (load_file(Path(f) / "final.safetensors") for f in (full, rest))
    assert all(torch.equal(a[name], b[name]) for name in weights)
    assert sorted(losses(lines, "shared")) == list(range(6, 12))
    for step, loss in losses(lines, "shared").items():
        assert seen[step] == pytest.approx(loss, rel=1e-5)
    alone, _ = fit(tmp_path, Path(full) / checkpoint)
    for step, loss in alone.items():
        assert loss == pytest.approx(seen[step], rel=1e-5)
