"""What the benchmarks of single operations share: times, a check that two things agree, and a table. Prints nothing."""

from __future__ import annotations

import ctypes
import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def place() -> str:
    """What the numbers were measured on."""
    what = torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    return f"{what}, torch {torch.__version__}"


def _synchronise() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def milliseconds(fn: Callable[[], Any], *, repeats: int = 5) -> float:
    """Median wall time of `fn`, after two runs that may compile (on a CPU nothing does: one)."""
    times, warm = [], 2 if DEVICE.type == "cuda" else 1
    for i in range(repeats + warm):
        _synchronise()
        begun = time.perf_counter()
        fn()
        _synchronise()
        if i >= warm:
            times.append(time.perf_counter() - begun)
    return 1e3 * statistics.median(times)


def joules() -> float:
    """Energy that the GPU has taken since its driver was loaded; NaN on a CPU or without nvidia-ml-py."""
    if DEVICE.type == "cpu" or importlib.util.find_spec("pynvml") is None:
        return float("nan")
    import pynvml

    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(DEVICE).uuid}")
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1e3


def peak_mib(fn: Callable[[], Any]) -> float:
    """Most memory that a run of `fn` holds beyond what was held before (on a CPU Linux's resident set, else NaN)."""
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fn()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    if not Path("/proc/self/clear_refs").exists():
        fn()
        return float("nan")
    ctypes.CDLL(None).malloc_trim(0)  # what was freed but kept for reuse would hide an allocation
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _status("VmRSS")
    fn()
    return (_status("VmHWM") - before) / 2**10


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


def gradients(fn: Callable[..., Tensor], inputs: Sequence[Tensor], do: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients of all inputs."""
    o = fn(*inputs)
    return o, *torch.autograd.grad(o, inputs, do)


def must_agree(name: str, found: Sequence[Tensor], expected: Sequence[Tensor], bound: float) -> None:
    """Refuse to time what computes something else: the largest difference, relative to the largest value."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        error = float((a.detach().float() - b.detach().float()).abs().max() / b.detach().float().abs().max())
        if not error <= bound:
            raise SystemExit(f"{name}: result {i} differs by {error:.1e} of its largest value, more than {bound:.0e}")


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table under a title."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
