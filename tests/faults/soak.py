"""A run on two ranks that is disturbed again and again, and one that is left alone: both end alike.

    python -m tests.faults.soak --folder F [--steps 1500] [--seed 0] [--gap 20 40]

Every 20 to 40 s one of `EVENTS`, drawn from the seed, happens to a real `lightning launch -n 2`: a rank killed, frozen
or asked to stop, the launcher killed or asked, everything killed at once, the disk full for some seconds. A start that
ended is started again by the same command, as a person or a scheduler would, until it says 0. What happened is printed
with its moment, so that a seed can be played again.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from neo_lightning.checkpoint.commit import latest
from neo_lightning.exits import CANNOT_SAVE, DONE, RANK_LOST, TRY_AGAIN
from tests.checkpoints import contents
from tests.forks import ROOT, clean_environment

DISK_MB = 192
FULL_SECONDS = (2.0, 6.0)
"""How long the disk stays full: less than the saves in a row take that end a run."""
MOST_STARTS = 500
IN_VAIN = 3
"""Starts in a row that committed nothing, after which one is left alone until it has: slow machines get there too."""
ORPHAN_SECONDS = 60.0
"""In which ranks whose launcher was killed have to have ended: silence, and what a busy machine adds."""
RECIPE = """
run: {{name: soak, dir: {run}}}
seed_everything: 3
stages:
  one: {{steps: {first}, context: 512, packs_per_step: 4, mixture: {{text: 1}}, lr: 1e-3, trains: [backbone]}}
  two:
    steps: {second}
    context: 1024
    packs_per_step: 4
    mixture: {{text: 1, image: 2, video: 1}}
    lr: 1e-3
    image: {{min_pixels: 4096, max_pixels: 4096}}
model:
  model: {{vocab_size: 448, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 4, extra_num_layers: 1,
           num_attention_heads: 4, num_key_value_heads: 2, head_dim: 16, patch_hidden_size: 16}}
data: {{manifest: {scenes}/manifest.yaml, tokenizer: {scenes}/tokenizer, num_workers: 1}}
trainer:
  accelerator: cpu
  devices: 2
  log_every_n_steps: 1
  callbacks:
    - {{class_path: neo_lightning.training.callbacks.Pulse, init_args: {{silence_s: 5}}}}
    - class_path: neo_lightning.training.callbacks.CommitCheckpoint
      init_args: {{every_n_steps: 20, keep_last: 2}}
evaluation:
  - class_path: neo_lightning.evaluation.SceneEvaluation
    init_args: {{shards: '{scenes}/test/{{colour,copy}}-*.tar', max_new_tokens: 4}}
"""


@dataclass
class Soak:
    """What happened."""

    seed: int
    starts: int = 0
    happened: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def tell(self, line: str) -> None:
        """A line with its moment."""
        print(f"{time.monotonic() - self.began:7.1f} s  {line}", flush=True)


def recipe(folder: Path, scenes: Path, steps: int) -> Path:
    """The recipe of a run in `folder/run`."""
    file = folder / "soak.yaml"
    first = steps // 3
    text = RECIPE.format(run=folder / "run", scenes=scenes, first=first, second=steps - first)
    file.write_text(text, encoding="utf-8")
    return file


def start(file: Path) -> subprocess.Popen[bytes]:
    """`lightning launch -n 2`, whose output goes on behind that of earlier starts."""
    with (file.parent / "output.log").open("ab") as log:
        command = [sys.executable, "-m", "neo_lightning", "launch", "-n", "2", "--max-restarts", "100", str(file)]
        return subprocess.Popen(command, cwd=ROOT, env=clean_environment(), stdout=log, stderr=subprocess.STDOUT)


def ranks_of(launcher: int) -> list[int]:
    """Processes of the ranks, by number; fewer while they are being started."""
    found = {}
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError, IndexError):
            parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher:
                variables = (process / "environ").read_bytes().split(b"\0")
                rank = next(v for v in variables if v.startswith(b"RANK=")).partition(b"=")[2]
                found[int(rank)] = int(process.name)
    return [found[rank] for rank in sorted(found)]


# ---- what happens


def _to_rank(number: signal.Signals) -> Callable[[subprocess.Popen[bytes], random.Random, Path], str]:
    def happen(launcher: subprocess.Popen[bytes], chance: random.Random, disk: Path) -> str:
        ranks = ranks_of(launcher.pid)
        rank = chance.randrange(2)
        if rank >= len(ranks):
            return f"{number.name}: rank {rank} was not there yet"
        os.kill(ranks[rank], number)
        return f"{number.name} to rank {rank}"

    return happen


def _to_launcher(number: signal.Signals) -> Callable[[subprocess.Popen[bytes], random.Random, Path], str]:
    def happen(launcher: subprocess.Popen[bytes], chance: random.Random, disk: Path) -> str:
        launcher.send_signal(number)
        return f"{number.name} to the launcher"

    return happen


def _kill_all(launcher: subprocess.Popen[bytes], chance: random.Random, disk: Path) -> str:
    """As when a machine goes down."""
    ranks = ranks_of(launcher.pid)
    for pid in (launcher.pid, *ranks):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return "SIGKILL to all"


def _fill_disk(launcher: subprocess.Popen[bytes], chance: random.Random, disk: Path) -> str:
    ballast, seconds = disk / "ballast", chance.uniform(*FULL_SECONDS)
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    time.sleep(seconds)  # what is measured is that nothing depends on when it ends
    ballast.unlink()
    return f"disk full for {seconds:.1f} s"


EVENTS = {
    "kill a rank": _to_rank(signal.SIGKILL),
    "freeze a rank": _to_rank(signal.SIGSTOP),
    "ask a rank": _to_rank(signal.SIGTERM),
    "ask the launcher": _to_launcher(signal.SIGUSR1),
    "kill the launcher": _to_launcher(signal.SIGKILL),
    "kill all": _kill_all,
    "fill the disk": _fill_disk,
}


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own on `folder`; False where none may be mounted."""
    folder.mkdir()
    mounted = not subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "none", str(folder)], capture_output=True
    ).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["cp", "-r", str(folder), f"{folder}-left"], capture_output=True)  # to look at
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def disturbed(file: Path, seed: int, gap: tuple[float, float], *, disk: bool) -> Soak:
    """Start a run again and again until it is done, while things happen to it."""
    soak, chance = Soak(seed), random.Random(seed)
    events = {name: happen for name, happen in EVENTS.items() if disk or name != "fill the disk"}
    checkpoints, in_vain = file.parent / "run" / "checkpoints", 0
    while soak.starts < MOST_STARTS:
        soak.starts += 1
        before = latest(checkpoints)
        launcher, ranks = start(file), set[int]()
        try:
            while True:
                while in_vain >= IN_VAIN and launcher.poll() is None and latest(checkpoints) == before:
                    time.sleep(0.5)
                try:
                    launcher.wait(chance.uniform(*gap))
                    break
                except subprocess.TimeoutExpired:
                    name = chance.choice(sorted(events))
                    soak.happened[name] += 1
                    ranks |= set(ranks_of(launcher.pid))
                    soak.tell(events[name](launcher, chance, file.parent))
        finally:
            launcher.kill()
        status = launcher.wait()
        wait_for(ranks)
        in_vain = in_vain + 1 if latest(checkpoints) == before else 0
        soak.statuses[status] += 1
        soak.tell(f"start {soak.starts} ended with {status}")
        if status == DONE:
            return soak
        if status not in (TRY_AGAIN, RANK_LOST, CANNOT_SAVE, -signal.SIGKILL):
            raise AssertionError(f"seed {seed}: status {status}, see {file.parent / 'output.log'}")
    raise AssertionError(f"seed {seed}: not done after {MOST_STARTS} starts, see {file.parent / 'output.log'}")


def wait_for(ranks: set[int]) -> None:
    """Until processes have ended that nobody else waits for. One that is frozen cannot: it is killed.

    Raises:
        AssertionError: one trains on as an orphan, or hangs.
    """
    stop = time.monotonic() + ORPHAN_SECONDS
    while left := [pid for pid in ranks if Path(f"/proc/{pid}").exists()]:
        for pid in left:
            with suppress(OSError):
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                    os.kill(pid, signal.SIGKILL)
        assert time.monotonic() < stop, f"processes {left} go on without their launcher"
        time.sleep(0.1)


# ---- what is left


def left_alone(file: Path) -> None:
    """The same run, undisturbed."""
    if (status := start(file).wait()) != DONE:
        raise AssertionError(f"status {status}, see {file.parent / 'output.log'}")


def losses(run: Path) -> dict[int, tuple[str, str]]:
    """Step -> loss and gradient norm as they are logged, bit for bit."""
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("loss")]
    found = {int(row["step"]): (row["loss"], row["grad_norm"]) for row in rows}
    assert len(found) == len(rows), f"{run}: a step was logged twice"
    return found


def must_be_alike(one: Path, other: Path, steps: int) -> None:
    """Compare losses of all steps, and every tensor of the last checkpoints, random states included."""
    for run in (one, other):
        missing = set(range(1, steps + 1)) - set(losses(run))
        assert not missing, f"{run}: steps {sorted(missing)} are missing in the log"
    differ = {step: (known, losses(other)[step]) for step, known in losses(one).items() if known != losses(other)[step]}
    assert not differ, f"losses and norms differ: {differ}"
    found = [contents(folder) for run in (one, other) if (folder := latest(run / "checkpoints"))]
    assert found[0].keys() == found[1].keys()
    wrong = [name for name in found[0] if name != "meta" and found[0][name] != found[1][name]]
    assert not wrong, f"tensors differ: {wrong}"


def main() -> None:
    """Soak a run and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", type=float, nargs=2, default=(20.0, 40.0))
    args = parser.parse_args()
    run_soak(args.folder, args.steps, args.seed, tuple(args.gap))


def run_soak(folder: Path, steps: int, seed: int, gap: tuple[float, float]) -> Soak:
    """Draw scenes, train twice, compare; returns what happened."""
    folder.mkdir(parents=True, exist_ok=True)
    scenes, calm = folder / "scenes", folder / "calm"
    counts = "text=400,image=200,pair=40,multi_image=6,video=12"
    line = f"data scenes --out {scenes} --train {counts} --held-out 2 --vocab-size 448 --workers 0"
    subprocess.run(
        [sys.executable, "-m", "neo_lightning", *line.split()], cwd=ROOT, env=clean_environment(), check=True
    )
    calm.mkdir()
    began = time.monotonic()
    left_alone(recipe(calm, scenes, steps))
    undisturbed = time.monotonic() - began
    print(f"undisturbed: {undisturbed:.0f} s", flush=True)
    with small_disk(folder / "soaked") as disk:
        if not disk:
            print("no file system may be mounted here: the disk is never full", flush=True)
        soak = disturbed(recipe(folder / "soaked", scenes, steps), seed, gap, disk=disk)
        seconds = time.monotonic() - soak.began
        must_be_alike(calm / "run", folder / "soaked" / "run", steps)
        report = json.loads((folder / "soaked" / "run" / "report.json").read_text())
    print(
        f"seed {seed}: {seconds:.0f} s, {soak.starts} starts, {sum(soak.happened.values())} events "
        f"({', '.join(f'{n} x {name}' for name, n in soak.happened.items())}); losses of {steps} steps and all tensors "
        f"are those of the undisturbed run. {report['summary'][-1]}",
        flush=True,
    )
    return soak


if __name__ == "__main__":
    main()
