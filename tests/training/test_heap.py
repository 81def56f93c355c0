"""Memory that a step has freed serves the next one, without the kernel."""

from __future__ import annotations

import ctypes
import platform
import resource

import pytest
import torch

from neo_lightning.training.heap import MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory
from tests.forks import Server

STEPS, TENSORS, MIB = 20, 8, 4
PAGES = TENSORS * MIB * 2**20 // resource.getpagesize()
PR_SET_THP_DISABLE = 41


def hold_tensors() -> None:
    held = [torch.ones(MIB * 2**18) for _ in range(TENSORS)]
    del held


def hold_blocks() -> None:
    """The same at the end of the heap, where no small object of torch's is in the way of giving it back."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    held = [ctypes.c_void_p(libc.malloc(MIB * 2**20)) for _ in range(TENSORS)]
    for block in held:
        ctypes.memset(block, 1, MIB * 2**20)
    for block in held:
        libc.free(block)


def print_page_faults(hold: str, keep: bool) -> None:
    """A step: the mean of all but the first."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)  # a huge page is one fault, however long it takes
    for setting in (MMAP_THRESHOLD, TRIM_THRESHOLD):  # where glibc begins; it moves them by what was freed before
        libc.mallopt(setting, 128 << 10)
    if keep:
        keep_freed_memory()
    for step in range(STEPS + 1):
        if step == 1:
            begun = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        globals()[hold]()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - begun) / STEPS)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize("hold", ["hold_tensors", "hold_blocks"])
def test_a_step_does_not_fault_in_again_what_the_last_one_freed(forks: Server, hold: str) -> None:
    def faults(keep: bool) -> float:
        status, output = forks.run("tests.training.test_heap:print_page_faults", hold, keep)
        assert status == 0, output
        return float(output)

    assert faults(keep=False) > PAGES / 2, "nothing to gain: this cannot show whether the setting works"
    assert faults(keep=True) < PAGES / 20
