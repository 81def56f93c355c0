"""The network on this device against what the authors' code computed: hidden states, logits, loss, every gradient.

    python benchmarks/gpu/golden.py

The values lie in tests/golden (see its README). In float32 it is a whole model; in bfloat16 it is as a run has it:
float32 weights, layers that see bfloat16 copies. Exit status 1 with the first result beyond its bound.
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from timing import DEVICE, place, print_table
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from neo_lightning.training.parallel import parallelise
from tests.model.support import GOLDEN, golden_batch, golden_model, relative

BOUNDS = {"float32": (2e-5, 2e-4), "bf16-mixed": (5e-2, 2e-1)}
"""Precision -> the largest error of values, and of gradients, relative to the largest value of each tensor. The sums of
a small network in float32 differ in order alone; bfloat16 has 8 bits, and errors add up over the layers."""


def errors(precision: str) -> dict[str, float]:
    """Largest relative error of each kind of result."""
    model = golden_model()
    batch, golden = golden_batch()
    if precision == "float32":
        model.to(DEVICE)
        model.attention = "triton"
    else:  # Triton's interpreter multiplies the bit patterns of bfloat16: a CPU takes torch's attention there
        mesh = init_device_mesh(DEVICE.type, (1,))
        parallelise(model.to(DEVICE), model.layers, mesh=mesh, bf16=True)
    states: list[torch.Tensor] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _, __, out: states.append(out.detach()))
    logits: list[torch.Tensor] = []
    head = model.language_model.model.norm
    head.register_forward_hook(lambda _, __, out: logits.append(model.logits(out.detach()).detach()))
    output = model(batch.to(DEVICE))
    loss = output.loss_sum / batch.weights.sum()
    loss.backward()
    expected = load_file(GOLDEN / "packed_grads.safetensors")
    grads = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None, name
        grads[name] = relative(_whole(grad).cpu(), expected[f"grad.{name}"])
    assert set(expected) == {f"grad.{name}" for name in grads}
    return {
        "hidden states": max(relative(x.cpu(), golden[f"layer_{i:02d}"]) for i, x in enumerate(states)),
        "logits": relative(logits[0].cpu(), golden["logits"]),
        "loss": relative(loss.cpu(), golden["loss"][0]),
        "gradients": max(grads.values()),
    }


def _whole(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def main() -> int:
    """Print the table."""
    backend = "nccl" if DEVICE.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    rows, wrong = [], False
    for precision, (values, gradients) in BOUNDS.items():
        for kind, error in errors(precision).items():
            bound = gradients if kind == "gradients" else values
            wrong |= not error <= bound
            rows.append((precision, kind, f"{error:.1e}", f"{bound:.0e}", "yes" if error <= bound else "NO"))
    print_table(f"against the authors' values, on {place()}", ("precision", "of", "error", "bound", "within"), rows)
    dist.destroy_process_group()
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
