"""Facts of the machine and of the installed software, as a report names them. No host or user name."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "neo-lightning",
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "transformers",
    "av",
    "numpy",
    "pillow",
)


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, operating system, torch's threads, and accelerators if one is `device`:
    to ask for their names opens a context on each.
    """
    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": _memory(),
        "torch_threads": torch.get_num_threads(),
        "accelerators": [],
    }
    if device.type == "cuda":
        facts["accelerators"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def version_facts() -> dict[str, str]:
    """Python's version and that of each package that decides a run's numbers; packages not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _memory() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
