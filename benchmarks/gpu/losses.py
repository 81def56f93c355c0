"""The same steps of training on this device and on the CPU, in float32: their losses must be equal.

    python benchmarks/gpu/losses.py [--steps 20]

The golden network from its own weights, AdamW, rows with images of the package's tests. Equal means within 1e-4 of the
loss at every step: sums have another order on another device, and training adds such differences up.
"""

from __future__ import annotations

import argparse
import sys

import torch
from timing import DEVICE, place, print_table

from neo_lightning.training.optim import build_optimizer
from neo_lightning.training.step import clip_gradients
from tests.model.support import golden_config, golden_model, random_batch

BOUND = 1e-4


def losses(device: torch.device, attention: str, steps: int) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    model = golden_model().to(device)
    model.attention = attention
    optimizer = build_optimizer(model, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, lr_scales={})
    found = []
    for step in range(steps):
        row = random_batch(golden_config(), [[(2, 3)], [], [(3, 2), (2, 2)]], text=5, seed=step).to(device)
        loss = model(row).loss_sum / row.weights.sum()
        loss.backward()
        norm = clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        found.append((float(loss), float(norm)))
    return found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    expected, found = (losses(*how, steps) for how in ((torch.device("cpu"), "tiled"), (DEVICE, "triton")))
    rows, wrong = [], False
    for step, ((cpu, cpu_norm), (own, norm)) in enumerate(zip(expected, found, strict=True)):
        good = abs(own - cpu) <= BOUND * abs(cpu)
        wrong |= not good
        rows.append((f"{step}", f"{cpu:.6f}", f"{own:.6f}", f"{cpu_norm:.4f}", f"{norm:.4f}", "yes" if good else "NO"))
    head = ("step", "loss, CPU", "loss, here", "norm, CPU", "norm, here", f"within {BOUND:.0e}")
    print_table(f"losses on {place()}, kernels of Triton, and on the CPU without", head, rows)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
