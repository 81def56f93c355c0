"""Expected memory of a training step against what a real one allocates, part by part. Exit status 1 beyond 10%.

    python benchmarks/memory.py [--size small|medium] [--precision bf16-mixed] [--stage 1] [--checkpointing full]

Measured: `NeoModule.training_step` under Lightning and `NeoStrategy`, in this process, on the CPU. Every allocation of
torch's allocator is read from a profiler's trace, cut where hooks have left marks; the second step counts, as the
first one has no moments. Masters, moments and gradients are sums over the tensors themselves. Expected:
`training.memory.step_memory`. A part below half a percent of the peak may be off by that much.

Not compared: a GPU, more than one rank, compiled layers.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rows import packed_row
from timing import place, print_table
from torch.distributed.tensor import DTensor
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.data import DataLoader, IterableDataset

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.lora import Lora
from neo_lightning.model.neo import Neo
from neo_lightning.training import build
from neo_lightning.training.callbacks import Curriculum
from neo_lightning.training.memory import Layout, RowCounts, layer_backward, step_memory
from neo_lightning.training.module import NeoModule
from neo_lightning.training.parallel import ActivationCheckpointing
from neo_lightning.training.stages import trained_names
from neo_lightning.training.strategy import NeoStrategy
from neo_lightning.training.term_memory import TermsOfRun
from neo_lightning.types import PackedBatch, Stage

SIZES = {"small": (256, 3, 4096, 512), "medium": (512, 12, 16384, 4096)}
"""Name -> width, layers, vocabulary, tokens: 4 and 45 M parameters."""
TRAINS = {1: ("patch_embedding", "pre_buffer", "hw"), 2: ("all",), 3: ("lora",), 4: ("lora",), 5: ("lora",)}
"""3: low-rank terms beside everything; 4 and 5: beside projections in 8 and 4 bits."""
LORAS = {3: Lora(rank=8), 4: Lora(rank=8, base_bits=8), 5: Lora(rank=8, base_bits=4)}
MODES: dict[str, tuple[ActivationCheckpointing, int]] = {
    "none": ("none", 0),
    "selective": ("selective", 0),
    "mixed": ("selective", 2),
    "full": ("full", 0),
}
"""Name -> activation checkpointing, and how many layers are under `full` in any case."""
BOUND, SMALL = 0.10, 0.005
MIB = 2**20


def network(size: str) -> NeoConfig:
    """A NEO with the 2B's proportions."""
    width, layers, vocabulary, _ = SIZES[size]
    return NeoConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        extra_num_layers=layers // 3,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        head_dim=64,
        patch_hidden_size=width // 2,
        image_token_id=vocabulary - 2,
        image_start_token_id=vocabulary - 1,
    )


class Rows(IterableDataset):
    """A short row, for a first step that makes the moments, then the row that is measured."""

    def __init__(self, rows: list[PackedBatch]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[list[PackedBatch]]:
        yield from ([row] for row in self.rows)


def mark(name: str) -> None:
    """Leave a mark in the trace."""
    with record_function(f"mark: {name}"):
        pass


class Marks(Callback):
    """Marks the moments of a step, and sums what lies in parameters, gradients and optimiser."""

    def __init__(self) -> None:
        self.sums: dict[str, int] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Hooks; those of FSDP2 are there already and run first."""
        model = pl_module.model
        model.register_forward_pre_hook(lambda *_: mark("forward begins"))
        model.language_model.model.norm.register_forward_pre_hook(lambda *_: mark("loss begins"))
        model.register_forward_hook(lambda *_: mark("forward ends"))
        for layer, name in ((model.layers[-1], "last layer's backward"), (model.layers[-2], "last layer left")):
            layer.register_forward_hook(lambda _, __, out, name=name: out.register_hook(lambda _: mark(name)) and None)
        model.layers[0].register_forward_pre_hook(
            lambda _, inputs: inputs[0].register_hook(lambda _: mark("first layer left")) and None
        )

    def on_train_batch_start(self, *args: Any) -> None:
        """A step begins."""
        mark("step begins")

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """All gradients are there."""
        mark("optimiser begins")
        self.sums["gradients"] = local_bytes(p.grad for p in pl_module.model.parameters() if p.grad is not None)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        """A step is over."""
        mark("step ends")
        self.sums["masters"] = local_bytes(pl_module.model.parameters())
        states = trainer.optimizers[0].state.values()
        self.sums["moments"] = local_bytes(x for state in states for x in state.values())


def local_bytes(tensors: Any) -> int:
    """Bytes of this rank's parts."""
    return sum((x._local_tensor if isinstance(x, DTensor) else x).nbytes for x in tensors)


def plan_of(stage: int, tokens: int) -> Stage:
    """Two steps of a row."""
    return Stage(steps=2, context=tokens, packs_per_step=1, mixture={"x": 1.0}, lr=1e-4, trains=TRAINS[stage])


def train(config: NeoConfig, row: PackedBatch, stage: int, precision: str, mode: str) -> tuple[Marks, list]:
    """Two steps under a profiler: the sums and the trace's events."""
    first = packed_row(config, 64, "text")
    plan = plan_of(stage, row.input_ids.numel())
    how: dict[str, Any] = {"activation_checkpointing": MODES[mode][0], "recomputed_layers": MODES[mode][1]}
    how["lora"] = LORAS.get(stage)
    module, marks = NeoModule({"one": plan}, model=config, **how), Marks()  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            strategy=NeoStrategy(),
            precision=precision,  # type: ignore[arg-type]
            max_steps=2,
            max_epochs=-1,
            default_root_dir=folder,
            callbacks=[Curriculum(print_table=False), marks],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            trainer.fit(module, train_dataloaders=DataLoader(Rows([first, row]), batch_size=None))
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        return marks, json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]


def moments_of(events: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Mark of the last step -> bytes live at it, and the most that was live until the next one."""
    timeline = [(e["ts"], e["args"]["Bytes"], "") for e in events if e.get("name") == "[memory]"]
    timeline += [(e["ts"], 0, e["name"][6:]) for e in events if str(e.get("name", "")).startswith("mark: ")]
    found: dict[str, tuple[int, int]] = {}
    live, name = 0, ""
    for _, size, new in sorted(timeline):
        live += size
        name = new or name
        found[name] = (live, live) if new else (found.get(name, (0, 0))[0], max(found.get(name, (0, 0))[1], live))
    return found


def measure(config: NeoConfig, row: PackedBatch, stage: int, precision: str, mode: str) -> dict[str, int]:
    """Part -> bytes."""
    gc.collect()  # what an earlier step left behind must not be freed inside this one
    marks, events = train(config, row, stage, precision, mode)
    at = moments_of(events)
    begin, start = at["step begins"][0], at["forward begins"][0]
    rows = begin - marks.sums["masters"] - marks.sums["moments"]  # on the host, read ahead
    width = 4 if precision == "32-true" else 2
    head = width * config.vocab_size * config.hidden_size * (stage == 2)  # its gradient, on its way to the embeddings
    return {
        **marks.sums,
        "gathered": start - begin,
        "gathered_layers": at["last layer's backward"][0] - at["loss begins"][0] - head,
        "activations": at["loss begins"][0] - start,
        "layer": at["last layer's backward"][1] - at["last layer's backward"][0],
        "loss": at["loss begins"][1] - at["loss begins"][0],
        "root": at["first layer left"][1] - start - marks.sums["gradients"],
        "peak": max(most for _, most in at.values()) - rows,
    }


def expect(config: NeoConfig, row: PackedBatch, stage: int, precision: str, mode: str) -> dict[str, int]:
    """Part -> bytes, by the formula; `layer` is the last one, as measured."""
    assert row.info is not None
    lora = LORAS.get(stage)
    terms = TermsOfRun.of(lora, config)
    model = build.network(config, lora)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    counts = RowCounts(
        tokens=row.input_ids.numel(),
        visual=row.visual_index.numel(),
        supervised=row.info.supervised,
        pairs=row.info.pairs,
    )
    layout = Layout(
        bf16=precision != "32-true",
        checkpointing=MODES[mode][0],
        recomputed_layers=MODES[mode][1],
        kernels="eager",
    )
    trained = trained_names(sizes, TRAINS[stage], config.extra_num_layers)
    if lora is not None:
        build.freeze(model, {"one": plan_of(stage, counts.tokens)}, lora, bf16=layout.bf16)
        layout = replace(layout, at_rest=build.bytes_at_rest(model, sizes))
    found = asdict(step_memory(config, sizes, trained.__contains__, counts, layout, terms))
    last = layer_backward(config, trained.__contains__, config.num_hidden_layers - 1, counts, layout, terms)
    return {**found, "layer": last}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--stage", type=int, choices=TRAINS, nargs="+", default=[*TRAINS])
    parser.add_argument("--precision", nargs="+", default=["32-true", "bf16-mixed"])
    parser.add_argument("--checkpointing", nargs="+", choices=MODES, default=[*MODES])
    arguments = parser.parse_args()
    config, tokens = network(arguments.size), SIZES[arguments.size][3]
    row = packed_row(config, tokens, "mixed", shrink=4)
    rows, wrong = [], []
    for case in product(arguments.precision, arguments.stage, arguments.checkpointing):
        precision, stage, mode = case
        found = measure(config, row, stage, precision, mode)
        expected = expect(config, row, stage, precision, mode)
        cells = []
        for part, measured in found.items():
            value = expected[part]
            cells.append(f"{value / MIB:.1f} / {measured / MIB:.1f}")
            if abs(value - measured) > max(BOUND * measured, SMALL * found["peak"]):
                cells[-1] += " !"
                wrong.append(f"{' '.join(map(str, case))}: {part} {value / MIB:.2f}, measured {measured / MIB:.2f} MiB")
        rows.append((f"{precision}, stage {stage}, {mode}", *cells))
    millions = sum(p.numel() for p in Neo(config).parameters()) / 1e6
    title = f"expected / measured MiB, {millions:.0f} M parameters, a row of {tokens} tokens, on {place()}"
    print_table(title, ("step", *found), rows)
    for line in wrong:
        print(f"beyond {BOUND:.0%}: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    sys.exit(main())
