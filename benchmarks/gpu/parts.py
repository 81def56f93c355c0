"""What `benchmarks/gpu` runs, in the order of worth: each part is a command, a claim and a time limit."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

INTERPRETER = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process; what it prints as Markdown tables is kept as tables."""

    name: str
    claim: str
    """What it shows, in a line."""
    command: tuple[str, ...]
    """Behind the interpreter, from the root of the repository."""
    seconds: float
    """Its limit."""
    environment: Mapping[str, str] = field(default_factory=dict)


def part(name: str, seconds: float, claim: str, command: str, **environment: str) -> Part:
    """A part whose command is a line."""
    return Part(name=name, claim=claim, command=tuple(shlex.split(command)), seconds=seconds, environment=environment)


def parts(*, rehearse: bool, kit: Path | None) -> list[Part]:
    """All parts; with `rehearse` the same programs on small inputs of a CPU."""
    return _rehearsal() if rehearse else _on_a_gpu(f" --kit {kit.resolve()}" if kit else "")


def _on_a_gpu(kit: str) -> list[Part]:
    here, step = "benchmarks/gpu", "benchmarks/step.py --rows image"
    tests = "-m pytest -p no:cacheprovider -rf --durations=0 --durations-min=20"
    return [
        part("golden", 40, "values, loss and gradients of the authors' code, float32 and bf16", f"{here}/golden.py"),
        part("losses", 45, "20 steps of training have the CPU's losses", f"{here}/losses.py"),
        part(
            "waits",
            60,
            "compiled steps: no wait for the GPU, no graph break, nothing compiled again",
            f"{here}/waits.py",
        ),
        part("kernels", 110, "every kernel against its definition in float64", f"{tests} tests/ops -m 'not slow'"),
        part("far", 45, "offsets beyond 2^31 elements; the same bits twice", f"{here}/far.py"),
        part(
            "step_2",
            110,
            "2B, stage 2, 16K: tokens/s against plain torch, MFU",
            f"{step} --tokens 16384 --stage 2{kit}",
        ),
        part(
            "attention",
            60,
            "attention at 16K against FlexAttention, FlashAttention, SDPA",
            "benchmarks/attention.py --tokens 16384",
        ),
        part(
            "step_36k",
            70,
            "2B, stage 2, 36K: memory on one GPU",
            f"{step} --tokens 36864 --stage 2 --no-peer --repeats 2{kit}",
        ),
        part("loss", 25, "loss at 16K: time and memory against all logits", "benchmarks/loss.py"),
        part("step_1", 70, "2B, stage 1, 16K", f"{step} --tokens 16384 --stage 1 --no-peer --repeats 2{kit}"),
        part(
            "memory",
            60,
            "memory of a step against the formula, video rows, all of a layer recomputed",
            "benchmarks/step.py --rows video --tokens 16384 --stage 2 --checkpointing full --no-peer --repeats 1",
        ),
        part("qk_norm_rope", 20, "QK norm and rotation: GB/s", "benchmarks/qk_norm_rope.py"),
        part("compiled", 60, "shared memory within the limit, no spills, no atomics", f"{here}/compiled.py"),
        part("decode", 15, "attention with a cache of 4,096 tokens against SDPA", "benchmarks/decode.py"),
        part("attention_36k", 60, "attention at 36K", "benchmarks/attention.py --tokens 36864"),
        part("fp8", 70, "8-bit products against bf16", f"{step} --tokens 16384 --stage 2 --no-peer --fp8 --repeats 2"),
    ]


def _rehearsal() -> list[Part]:
    here, step = "benchmarks/gpu", "benchmarks/step.py --size tiny --tokens 128 --rows image --repeats 1"
    tests = "-m pytest -p no:cacheprovider -rf"
    return [
        part("golden", 300, "values, loss and gradients of the authors' code", f"{here}/golden.py", **INTERPRETER),
        part("losses", 300, "2 steps of training", f"{here}/losses.py --steps 2", **INTERPRETER),
        part("waits", 300, "compiled steps (nothing to wait for on a CPU)", f"{here}/waits.py --steps 3"),
        part(
            "kernels",
            300,
            "two kernels",
            f"{tests} tests/ops/test_swiglu.py tests/ops/test_rms_norm.py -k triton",
            **INTERPRETER,
        ),
        part("far", 300, "small offsets", f"{here}/far.py --small", **INTERPRETER),
        part("step_2", 300, "a tiny model's step", f"{step} --stage 2"),
        part("attention", 300, "attention of 128 tokens", "benchmarks/attention.py --tokens 128"),
        part("step_36k", 300, "the same", f"{step} --stage 2 --no-peer"),
        part("loss", 300, "loss of 64 tokens", "benchmarks/loss.py --tokens 64"),
        part("step_1", 300, "a tiny model's step", f"{step} --stage 1 --no-peer"),
        part("memory", 300, "the same, recomputed", f"{step} --stage 2 --checkpointing full --no-peer"),
        part("qk_norm_rope", 300, "64 tokens", "benchmarks/qk_norm_rope.py --tokens 64"),
        part("compiled", 300, "one kernel", f"{here}/compiled.py --only swiglu:forward"),
        part("decode", 300, "a cache of 64 tokens", "benchmarks/decode.py --cache 64 --batch 1"),
    ]
