"""Real runs of the command line in processes of their own, on tiny shards of text, some of them poisoned."""

from __future__ import annotations

import csv
import ctypes
import json
import os
import random
import signal
import string
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import Callback

from tests.data.data_helpers import make_tokenizer, write_tar

WORDS = ["left", "right", "number", "colour", "red", "green", "blue", "small", "large", "above", "below"]

LINK = "eth0"
_NETWORK, _MOUNTS = 0x40000000, 0x20000  # CLONE_NEWNET, CLONE_NEWNS

RECIPE = """
run: {{name: tiny, dir: {run}}}
stages:
  one: {{steps: {steps}, context: 128, packs_per_step: 2, mixture: {{text: 1}}, lr: 2e-2, min_lr_ratio: 1.0}}
model:
  model: {{vocab_size: 448, hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, extra_num_layers: 1,
           num_attention_heads: 2, num_key_value_heads: 1, head_dim: 8, patch_hidden_size: 8}}
data: {{manifest: {data}/m.yaml, tokenizer: {data}}}
export: false
trainer:
  accelerator: cpu
  log_every_n_steps: 1
  enable_progress_bar: false
  callbacks:
    - class_path: neo_lightning.training.callbacks.CommitCheckpoint
      init_args: {{every_n_steps: {every}, keep_last: 0}}
"""


def make_data(folder: Path, poisoned: int = 0) -> None:
    """Four shards of text that is easy to learn, with so many samples of noise among them."""
    make_tokenizer(folder)
    noise = random.Random(1)
    for part in range(4):
        members = {}
        for i in range(40):
            text = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(20))
            members[f"s{part}_{i}.json"] = json.dumps({"text": text}).encode()
        if part == 2:
            for i in range(poisoned):
                text = "".join(noise.choice(string.ascii_letters) for _ in range(120))
                members[f"poison{i}.json"] = json.dumps({"text": text}).encode()
        write_tar(folder / f"text-{part}.tar", members)
    (folder / "m.yaml").write_text("sources:\n  text: {modality: text, shards: 'text-*.tar'}\n")


def write_recipe(file: Path, *, run: Path, data: Path, steps: int, every: int = 4) -> Path:
    """A run of one stage."""
    file.write_text(RECIPE.format(run=run, data=data, steps=steps, every=every), encoding="utf-8")
    return file


class Fault(Callback):
    """What happens to one rank in front of a step; when (`time.monotonic`) is noted in the run's `fault-at`."""

    def __init__(
        self, what: Literal["stop", "kill", "loop", "raise", "slow", "cut"], rank: int = 1, step: int = 6
    ) -> None:
        self.what, self.rank, self.step = what, rank, step

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if trainer.global_rank != self.rank or trainer.global_step < self.step:
            return
        if self.what == "slow":
            self.work_slowly()
            return
        (Path(trainer.default_root_dir) / "fault-at").write_text(repr(time.monotonic()))
        if self.what == "raise":
            raise KeyError("a bug of this rank")
        if self.what == "cut":
            subprocess.run(["ip", "link", "set", LINK, "down"], check=True)
            return
        while self.what == "loop":
            self.stay_here()
        os.kill(os.getpid(), {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[self.what])

    def stay_here(self) -> None:
        os.sched_yield()

    def work_slowly(self) -> None:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            os.sched_yield()


def command(argv: Sequence[str]) -> int:
    """What a fork does: one command line; its exit status is the process's."""
    from neo_lightning.cli.main import main

    torch.set_num_threads(1)
    return main(list(argv))


def command_of_rank(folder: str, argv: Sequence[str]) -> int:
    """The same as one rank of several, whose process writes its number to `pid-RANK`."""
    rank = os.environ["LOCAL_RANK"]
    (Path(folder) / f"pid-{rank}").write_text(str(os.getpid()))
    print("started", rank, flush=True)
    return command(argv)


def command_on_a_host(folder: str, namespaces: Sequence[str], argv: Sequence[str]) -> int:
    """The same as a rank that is alone in a network namespace."""
    with open(f"/run/netns/{namespaces[int(os.environ['LOCAL_RANK'])]}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _NETWORK):
            raise OSError(ctypes.get_errno(), "setns")
    return command_of_rank(folder, argv)


def command_with_own_disk(folder: str, argv: Sequence[str]) -> int:
    """The same as a rank of which the second sees another file system where the run's folder is."""
    if os.environ["LOCAL_RANK"] == "1":
        if ctypes.CDLL(None, use_errno=True).unshare(_MOUNTS):
            raise OSError(ctypes.get_errno(), "unshare")
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", f"{folder}/run"], check=True)
    return command_of_rank(folder, argv)


def rank_0_alone(folder: str, argv: Sequence[str]) -> int:
    """The other one never comes."""
    return 0 if os.environ["LOCAL_RANK"] != "0" else command_of_rank(folder, argv)


def losses(run: Path) -> dict[int, float]:
    """Steps done -> loss, as the log has it to the last bit."""
    with (run / "metrics.csv").open(newline="") as file:
        return {int(line["step"]): float(line["loss"]) for line in csv.DictReader(file) if line["loss"]}
