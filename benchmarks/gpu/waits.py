"""Steps of compiled layers over rows of any layout: the GPU is never waited for, nothing is compiled again.

    python benchmarks/gpu/waits.py [--steps 12]

Behind the first step, which compiles, torch raises at whatever waits for the GPU (`torch.cuda.set_sync_debug_mode`),
and dynamo's counters must stay as they are, without a graph break. Whole micro-batches with clipping and AdamW, in
bfloat16 as a run has it; the one wait of a real step, for its loss and norm, is outside. On a CPU layers are compiled
without code being made of them, and nothing can be waited for.
"""

from __future__ import annotations

import argparse
import sys

import torch
import torch.distributed as dist
from timing import DEVICE, place, print_table
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh

from neo_lightning.training.build import Init, build_model
from neo_lightning.training.optim import build_optimizer
from neo_lightning.training.step import clip_gradients, modality_losses
from neo_lightning.types import Stage
from tests.model.support import golden_config
from tests.training.test_step_cost import LAYOUTS, LENGTH, row

GPU = DEVICE.type == "cuda"


def main() -> int:
    """Print the table; any wait is an error by itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    steps = parser.parse_args().steps
    dist.init_process_group("nccl" if GPU else "gloo", store=dist.HashStore(), rank=0, world_size=1)
    if not GPU:
        torch.compiler.set_stance("default", force_backend="aot_eager")
    model = build_model(
        golden_config(),
        Init(seed=1),
        stages={"one": Stage(steps=1, context=LENGTH, packs_per_step=1, mixture={"x": 1.0}, lr=1e-3)},
        device=DEVICE,
        mesh=init_device_mesh(DEVICE.type, (1,)),
        bf16=True,
        activation_checkpointing="selective",
        compile_blocks=True,
        attention="triton" if GPU else "reference",  # the tiled one leaves the graph, by design
    )
    optimizer = build_optimizer(model, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, lr_scales={})
    rows = [row(step, *LAYOUTS[step % len(LAYOUTS)]) for step in range(steps)]
    rows = [batch.pin_memory() for batch in rows] if GPU else rows
    graphs: list[int] = []
    for number, batch in enumerate(rows):
        if GPU:
            torch.cuda.set_sync_debug_mode("error" if number else "default")
        on_device = batch.to(DEVICE, non_blocking=True)
        loss_sum, nll, places = model(on_device)
        loss_sum.backward()
        modality_losses(on_device, nll, places)
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        graphs.append(counters["stats"]["unique_graphs"])
    if GPU:
        torch.cuda.set_sync_debug_mode("default")
    breaks, again = sum(counters["graph_break"].values()), graphs[-1] - graphs[0]
    found = [("graphs of the first step", graphs[0], graphs[0] > 0), ("graph breaks", breaks, breaks == 0)]
    found += [
        ("graphs made later", again, again == 0),
        ("waits for the GPU" if GPU else "waits: not seen here", 0, True),
    ]
    lines = [(name, f"{count}", "yes" if good else "NO") for name, count, good in found]
    print_table(f"{steps} compiled steps on {place()}", ("what", "how many", "as it must be"), lines)
    for reason in counters["graph_break"]:
        print(f"graph break: {reason}")
    dist.destroy_process_group()
    return int(not all(good for _, _, good in found))


if __name__ == "__main__":
    sys.exit(main())
