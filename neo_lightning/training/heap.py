"""What one step frees, the next one uses again: a setting of glibc's allocator for training on a CPU."""

from __future__ import annotations

import ctypes
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""glibc's names for the two settings (malloc.h)."""
LARGEST = 32 << 20
"""Bytes from which blocks come from the kernel: the most that every glibc takes."""


def keep_freed_memory() -> None:
    """Leave freed memory with the process, which lives for one model; nothing happens where there is no glibc.

    By itself glibc hands large blocks and the end of the heap back to the kernel, which clears every page again when it
    is next touched: thousands of page faults in each step of a small model.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(MMAP_THRESHOLD, LARGEST)
        libc.mallopt(TRIM_THRESHOLD, 2**31 - 1)
