"""Devices that a run may be planned for or measured on: memory, dense bf16 peak, and the efficiency that is assumed.

The one table of peaks: MFU in the log and the outlook of `neo-lightning plan` both come from here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

RESERVE = 1.6
"""GiB of a GPU that tensors do not get: CUDA context, NCCL's buffers, workspaces of kernels. An assumption."""
ROUNDING = 1.05
"""The allocator's share for what it rounds up and for fragments, on top of the tensors. An assumption for segments that
grow, as the command line has them (`cli.environment`); with a PYTORCH_ALLOC_CONF of one's own it may be more."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One kind of device."""

    name: str
    """Part of the name that CUDA gives it; empty for a CPU."""
    memory: float
    """GiB in all, as its driver reports it."""
    tflops: float
    """Dense bf16 peak, TFLOP/s."""
    link: float = 32.0
    """GB/s to the other devices of its machine, in one direction; by default PCIe 4.0 with 16 lanes."""
    mfu: float = 0.35
    """Assumed part of that peak in training. For GPUs the middle of what others have published for 1-8 B models on A100
    and H100 (torchtitan 33-39%, LLM Foundry 35-36%, lmms-engine 25-40%); nothing of this package has been measured."""

    @property
    def usable(self) -> float:
        """GiB for tensors."""
        return (self.memory - RESERVE * bool(self.name)) / ROUNDING


# Peaks and links: the makers' data sheets, without sparsity, in one direction. Memory: what nvidia-smi reports,
# MiB / 1024.
# The order counts where one name is part of another.
DEVICES: dict[str, Device] = {
    "b200": Device(name="B200", memory=179.0, tflops=2250.0, link=900.0),
    "gh200": Device(name="GH200", memory=95.5, tflops=989.4, link=450.0),
    "h200": Device(name="H200", memory=140.4, tflops=989.4, link=450.0),
    "h100-pcie": Device(name="H100 PCIe", memory=79.6, tflops=756.0, link=64.0),
    "h100-nvl": Device(name="H100 NVL", memory=93.5, tflops=835.0, link=300.0),
    "h100": Device(name="H100", memory=79.6, tflops=989.4, link=450.0),
    "h800": Device(name="H800", memory=79.6, tflops=989.4, link=200.0),
    "a100-80g": Device(name="A100", memory=80.0, tflops=312.0, link=300.0),
    "a100-40g": Device(name="A100", memory=40.0, tflops=312.0, link=300.0),
    "a800": Device(name="A800", memory=80.0, tflops=312.0, link=200.0),
    "l40s": Device(name="L40S", memory=45.0, tflops=362.0),
    "l40": Device(name="L40", memory=45.0, tflops=181.0),
    "l4": Device(name="L4", memory=22.5, tflops=121.0),
    "rtx-4090": Device(name="RTX 4090", memory=24.0, tflops=165.2),
    # a process on one core: 32 float32 operations a cycle (AVX2) at 3 GHz; the demo reached about a quarter of that
    "cpu": Device(name="", memory=4.0, tflops=0.096, mfu=0.25),
}
"""Name on the command line -> device."""


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of a device that is here, None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((known.tflops * 1e12 for known in DEVICES.values() if known.name and known.name in name), None)
