"""A training step with low-rank terms against one of all weights: time, and memory as reckoned and as held.

    python benchmarks/lora.py [--device cuda --size 2b --tokens 8192] [--rank 16]

Both steps are forward, backward, clipping and AdamW of the same network on the same row, in turns; before anything is
timed, fresh terms must give the loss of the network without them to the bit (beside a coded base: within 5%).
`held` are weights, gradients and moments.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace

import torch
from rows import packed_row
from timing import place, print_table
from torch import Tensor

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.lora import Lora
from neo_lightning.model.neo import Neo
from neo_lightning.training.build import Init, build_model
from neo_lightning.training.memory import Layout, RowCounts, step_memory
from neo_lightning.training.optim import build_optimizer
from neo_lightning.training.stages import apply_stage, trained_names
from neo_lightning.training.step import clip_gradients
from neo_lightning.training.term_memory import TermsOfRun
from neo_lightning.types import PackedBatch, Stage

SIZES = {
    "2b": NeoConfig(),
    "medium": NeoConfig(
        vocab_size=16384,
        hidden_size=512,
        intermediate_size=1536,
        num_hidden_layers=8,
        extra_num_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        patch_hidden_size=256,
        image_token_id=16382,
        image_start_token_id=16383,
    ),
}
STEPS = 3
MIB = 2**20


def build(config: NeoConfig, tokens: int, lora: Lora | None, device: torch.device) -> tuple[Neo, torch.optim.Optimizer]:
    """A model of which `lora`, or everything, is trained."""
    trains = ("all",) if lora is None else ("lora",)
    stage = Stage(steps=1, context=tokens, packs_per_step=1, mixture={"x": 1.0}, lr=1e-6, trains=trains)
    model = build_model(config, Init(), stages={"one": stage}, device=device, lora=lora)
    apply_stage(model, stage, config.extra_num_layers)
    scales = {"one": dict.fromkeys((name for name, _ in model.named_parameters()), 1.0)}
    return model, build_optimizer(model, lr=1e-6, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, lr_scales=scales)


def seconds(model: Neo, optimizer: torch.optim.Optimizer, row: PackedBatch) -> tuple[float, float]:
    """Of one step, and its loss."""
    started = time.perf_counter()
    loss = model(row).loss_sum
    loss.backward()
    clip_gradients(model.parameters(), 1.0)
    optimizer.step()
    value = float(loss.detach())  # waits for a GPU
    return time.perf_counter() - started, value


def held(model: Neo, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of weights, gradients and moments."""
    states = (x for state in optimizer.state.values() for x in state.values() if isinstance(x, Tensor))
    gradients = (p.grad for p in model.parameters() if p.grad is not None)
    return sum(x.nbytes for x in (*model.parameters(), *gradients, *states))


def reckoned(config: NeoConfig, model: Neo, row: PackedBatch, lora: Lora | None) -> int:
    """The peak by `training.memory`."""
    assert row.info is not None
    counts = RowCounts(
        tokens=row.input_ids.numel(),
        visual=row.visual_index.numel(),
        supervised=row.info.supervised,
        pairs=row.info.pairs,
    )
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    on = trained_names(sizes, ("all",) if lora is None else ("lora",), config.extra_num_layers)
    at_rest = {name: p.element_size() for name, p in model.named_parameters()}
    layout = Layout(bf16=False, kernels="triton" if row.input_ids.is_cuda else "eager", at_rest=at_rest)
    return step_memory(config, sizes, on.__contains__, counts, layout, TermsOfRun.of(lora, config)).peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="medium")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    arguments = parser.parse_args()
    config, device = SIZES[arguments.size], torch.device(arguments.device)
    row = packed_row(config, arguments.tokens, "mixed", shrink=4).to(device)
    lora = Lora(rank=arguments.rank)
    terms = f"terms of rank {arguments.rank}"
    coded = {f"{terms}, {bits} bits": replace(lora, base_bits=bits) for bits in (8, 4)}
    kinds = {"all weights": None, terms: lora, **coded}
    built = {name: build(config, arguments.tokens, lora, device) for name, lora in kinds.items()}
    first = {name: seconds(*pair, row)[1] for name, pair in built.items()}
    whole, beside, *rounded = first.values()
    assert whole == beside, f"other losses: {first}"
    assert all(abs(loss / whole - 1) < 0.05 for loss in rounded), f"other losses: {first}"
    taken: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(STEPS):
        for name, (model, optimizer) in built.items():
            optimizer.zero_grad()
            taken[name].append(seconds(model, optimizer, row)[0])
    base = statistics.median(taken["all weights"])
    rows = []
    for name, (model, optimizer) in built.items():
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        median = statistics.median(taken[name])
        peak = reckoned(config, model, row, kinds[name])
        memory = f"{held(model, optimizer) / MIB:,.0f}", f"{peak / MIB:,.0f}"
        rows.append((name, f"{trained / 1e6:.2f} M", f"{median:.2f}", f"{base / median:.2f}x", *memory))
    heads = ("step", "trained", "s", "faster", "held MiB", "peak MiB, reckoned")
    print_table(f"{arguments.tokens} tokens in float32, on {place()}", heads, rows)


if __name__ == "__main__":
    main()
