"""Whole training steps (forward, backward, clipping, AdamW) against plain torch: tokens/s, MFU, memory.

    python benchmarks/step.py [--device cuda --size 2b --tokens 16384 36864 --stage 1 2 --rows image video mixed]
    python benchmarks/step.py --device cpu --size tiny

Rows are synthetic (`rows.py`), the arithmetic is that of `NeoModule.training_step` on one device, without loading data.
On a GPU: bf16 with float32 masters, compiled layers, selective recomputation, and as many layers recomputed whole as
must be for the step to fit.

The peer is the same network in plain torch: float32 weights under autocast, eager norms and rotations, SDPA with a
dense mask, logits of every token, the same recomputation as far as torch has it (none or full). Both must compute the
same loss first. It runs on the first kind of row alone, as it is slow. The authors' kit is a second peer where somebody
has it (`--kit`, see authors_kit.py). With `--fp8` the package's own step with 8-bit products is compared as well; the
MFU of that line is still over the bf16 peak.

MFU: exact mask pairs, forward and backward of what is trained, head on supervised tokens only, no recomputation
counted, over the dense bf16 peak (`training.devices`). Memory is the most beyond weights and moments: on a GPU what the
allocator gave, on a CPU the resident set; `expected` is `training.memory`'s. Energy is the whole GPU's, where
nvidia-ml-py is installed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from authors_kit import begin_images, kit_loss, kit_model
from rows import KINDS, packed_row
from timing import DEVICE, joules, peak_mib, place, print_table
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.checkpoint import checkpoint

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.flops import flops_per_step
from neo_lightning.model.layers import Layer
from neo_lightning.model.neo import Neo
from neo_lightning.ops.linear_cross_entropy import linear_cross_entropy_reference
from neo_lightning.ops.qk_norm_rope import Rope
from neo_lightning.ops.rms_norm import rms_norm_reference
from neo_lightning.training.build import Init, build_model
from neo_lightning.training.devices import peak_flops
from neo_lightning.training.memory import Layout, RowCounts, StepMemory, step_memory
from neo_lightning.training.optim import build_optimizer
from neo_lightning.training.stages import apply_stage
from neo_lightning.training.step import clip_gradients
from neo_lightning.types import PackedBatch, Stage

SIZES = {
    "2b": NeoConfig(),
    "tiny": NeoConfig(
        vocab_size=1024,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        extra_num_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        patch_hidden_size=64,
        image_token_id=1022,
        image_start_token_id=1023,
    ),
}
TRAINS = {1: ("patch_embedding", "pre_buffer", "hw"), 2: ("all",)}
GPU = DEVICE.type == "cuda"
USED = 0.9
"""Part of a GPU's memory that a step may be expected to take."""


def stage_of(number: int, tokens: int) -> Stage:
    """A stage that trains what the papers' stages do."""
    return Stage(steps=1, context=tokens, packs_per_step=1, mixture={"x": 1.0}, lr=1e-5, trains=TRAINS[number])


def fresh(model: Neo, stage: Stage) -> Neo:
    """The same weights in every model of a size, large enough for every part to matter in the loss."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            whole = torch.empty(parameter.shape, device=DEVICE)
            whole = whole.normal_(0, whole[0].numel() ** -0.5) if whole.ndim > 1 else whole.fill_(1.0)
            getattr(parameter, "_local_tensor", parameter).copy_(whole)
    apply_stage(model, stage, model.config.extra_num_layers)
    return model


def stepper(model: nn.Module, loss: Callable[[PackedBatch], Tensor]) -> Callable[[PackedBatch], Tensor]:
    """One optimiser step on a row; gives the loss."""
    optimizer = build_optimizer(model, lr=1e-5, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, lr_scales={})

    def step(row: PackedBatch) -> Tensor:
        value = loss(row) / row.weights.sum()
        value.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return value.detach()

    return step


def own_step(
    config: NeoConfig, stage: Stage, layout: Layout, *, compiled: bool, fp8: bool = False
) -> Callable[[PackedBatch], Tensor]:
    """This package's, on a mesh of one rank where it computes in bfloat16."""
    mesh = init_device_mesh(DEVICE.type, (1,)) if GPU else None
    model = build_model(
        config,
        Init(),
        stages={"one": stage},
        device=DEVICE,
        mesh=mesh,
        bf16=GPU,
        activation_checkpointing=layout.checkpointing,
        recomputed_layers=layout.recomputed_layers,
        compile_blocks=compiled,
        fp8=fp8,
        fill=False,
    )
    fresh(model, stage)
    return stepper(model, lambda row: model(row).loss_sum)


def plain_step(config: NeoConfig, stage: Stage, checkpointing: str) -> Callable[[PackedBatch], Tensor]:
    """The peer's."""
    with torch.device("meta"):
        model = Neo(config)
    fresh(model.to_empty(device=DEVICE), stage)
    again: Any = checkpoint if checkpointing == "full" else lambda fn, *args, **_: fn(*args)

    def loss(row: PackedBatch) -> Tensor:
        places = torch.arange(row.start.numel(), device=DEVICE)
        mask = (places >= row.start[:, None]) & (places < row.limit[:, None])
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16, enabled=GPU):
            x, rope = model.embed(row.input_ids, row.visual_index, row.patches, row.grids), model.rope(row.positions)
            for layer in model.layers:
                x = again(plain_layer, layer, x, rope, mask, use_reentrant=False)
            norm = model.language_model.model.norm
            x = rms_norm_reference(x, norm.weight, norm.eps)
            targets = row.targets.clamp_min(0)
            return linear_cross_entropy_reference(x, model.head_weight, targets, row.weights)[0]

    return stepper(model, loss)


def plain_rotation(x_t: Tensor, x_hw: Tensor, norms: tuple[Tensor, Tensor, Tensor], turn: Tensor, eps: float) -> Tensor:
    """Axis by axis as released: each normalised, its halves rotated against each other."""
    first, axes = 0, []
    for x, weight in zip((x_t, *x_hw.chunk(2, -1)), norms, strict=True):
        pairs = weight.numel() // 2
        cos, sin = (angle[:, None].repeat(1, 1, 2) for angle in turn[:, first : first + pairs].unbind(-1))
        z = rms_norm_reference(x, weight, eps)
        low, high = z.chunk(2, -1)
        axes.append(z * cos.to(z.dtype) + torch.cat([-high, low], -1) * sin.to(z.dtype))
        first += pairs
    return torch.cat(axes, -1)


def kit_step(config: NeoConfig, stage: Stage, checkpointing: str, kit: Path) -> Callable[[PackedBatch], Tensor]:
    """The authors'; on a CPU it gives the loss and steps nowhere, as FlexAttention has no backward pass there."""
    ours = fresh(Neo(config), stage)
    model = kit_model(kit, config, ours.state_dict()).to(DEVICE, torch.bfloat16 if GPU else torch.float32)
    trained = {name: parameter.requires_grad for name, parameter in ours.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])
    loss = kit_loss(model, config, recompute=checkpointing != "none")
    return stepper(model, loss) if GPU else torch.no_grad()(lambda row: loss(row) / row.weights.sum())


def plain_layer(layer: Layer, x: Tensor, rope: Rope, mask: Tensor) -> Tensor:
    """A decoder layer by its definition, attention by SDPA with a dense mask."""
    a, mlp, first, second = layer.self_attn, layer.mlp, layer.input_layernorm, layer.post_attention_layernorm
    heads = (x.shape[0], -1, a.head_dim)
    y = rms_norm_reference(x, first.weight, first.eps)
    q, q_hw, k, k_hw, v = (p(y).view(heads) for p in (a.q_proj, a.q_proj_hw, a.k_proj, a.k_proj_hw, a.v_proj))
    q = plain_rotation(q, q_hw, (a.q_norm.weight, a.q_norm_h.weight, a.q_norm_w.weight), rope.turn, a.eps)
    k = plain_rotation(k, k_hw, (a.k_norm.weight, a.k_norm_h.weight, a.k_norm_w.weight), rope.turn, a.eps)
    wide = F.pad(v, (0, q.shape[-1] - v.shape[-1]))  # equal widths: torch's fused kernels take no others
    q, k, wide = (t.repeat_interleave(q.shape[1] // t.shape[1], 1).transpose(0, 1)[None] for t in (q, k, wide))
    o = F.scaled_dot_product_attention(q, k, wide, attn_mask=mask, scale=a.head_dim**-0.5)
    x = x + a.o_proj(o[0, ..., : a.head_dim].transpose(0, 1).flatten(1))
    y = rms_norm_reference(x, second.weight, second.eps)
    return x + mlp.down_proj(F.silu(mlp.gate_proj(y)) * mlp.up_proj(y))


def seconds_and_joules(step: Callable[[PackedBatch], Tensor], row: PackedBatch, repeats: int) -> tuple[float, float]:
    """Median time of a step that has run twice before, and its mean energy."""
    times, energy = [], joules()
    for _ in range(repeats):
        begun = time.perf_counter()
        float(step(row))  # waits
        times.append(time.perf_counter() - begun)
    return statistics.median(times), (joules() - energy) / repeats


def counts(row: PackedBatch) -> RowCounts:
    """Of a synthetic row."""
    assert row.info is not None
    return RowCounts(
        tokens=row.info.tokens, visual=row.visual_index.numel(), supervised=row.info.supervised, pairs=row.info.pairs
    )


def fewest_recomputed(
    memory: Callable[[RowCounts, Layout], StepMemory], rows: list[RowCounts], layout: Layout, layers: int
) -> Layout:
    """With the fewest layers recomputed whole with which the step is expected to fit this GPU; with all if none do."""
    room = USED * torch.cuda.mem_get_info()[1]
    tried = [replace(layout, recomputed_layers=n) for n in range(layers + 1)]
    return next((some for some in tried if all(memory(row, some).peak <= room for row in rows)), tried[-1])


def measure(arguments: argparse.Namespace, tokens: int, number: int) -> list[list[str]]:
    """Lines of the table for one row length and stage."""
    config, stage = SIZES[arguments.size], stage_of(number, tokens)
    mode: Any = arguments.checkpointing or ("selective" if GPU else "none")
    with torch.device("meta"):
        model = Neo(config)
    apply_stage(model, stage, config.extra_num_layers)
    trained = {name: p.requires_grad for name, p in model.named_parameters()}
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    shrink = 1 if arguments.size == "2b" else 4
    packed = {kind: begin_images(packed_row(config, tokens, kind, shrink=shrink), config) for kind in arguments.rows}
    peak_of = partial(step_memory, config, sizes, trained.__getitem__)
    layout = Layout(bf16=GPU, checkpointing=mode, kernels="triton" if GPU else "eager")
    layout = replace(layout, recomputed_layers=arguments.recomputed_layers or 0)
    if GPU and mode == "selective" and arguments.recomputed_layers is None:
        layout = fewest_recomputed(peak_of, [counts(row) for row in packed.values()], layout, config.num_hidden_layers)
    again = mode if not layout.recomputed_layers else f"{mode}, {layout.recomputed_layers} layers"
    peak, lines = peak_flops(DEVICE), []
    first: dict[str, float] = {}

    def line(name: str, kind: str, step: Callable[[PackedBatch], Tensor]) -> list[str]:
        row, of = packed[kind].to(DEVICE), counts(packed[kind])
        first.setdefault(name, float(step(row)))
        memory = peak_mib(lambda: step(row))
        time, energy = seconds_and_joules(step, row, arguments.repeats)
        work = flops_per_step(
            config,
            tokens=tokens,
            patches=4 * of.visual,
            pairs=of.pairs,
            supervised=of.supervised,
            trained=trained.__getitem__,
        )
        mfu = f"{work / time / peak:.1%}" if peak else "-"
        found = peak_of(of, layout)
        expected = f"{(found.peak - found.masters - found.moments) / 2**20:.0f}" if name == "ours" else "-"
        return [
            f"{tokens}",
            f"{number}",
            kind,
            again,
            name,
            f"{tokens / time:.0f}",
            mfu,
            f"{memory:.0f}",
            expected,
            f"{1e3 * energy / tokens:.0f}" if energy == energy else "-",
            "-",
        ]

    step = own_step(config, stage, layout, compiled=GPU)
    lines += [line("ours", kind, step) for kind in packed]
    del step
    peers: dict[str, Callable[[], Callable[[PackedBatch], Tensor]]] = {}
    if not arguments.no_peer:
        peers["plain torch"] = lambda: plain_step(config, stage, "full" if mode != "none" else "none")
    if arguments.kit:
        peers["authors' kit"] = lambda: kit_step(config, stage, mode, arguments.kit)
    if arguments.fp8:
        peers["ours, fp8"] = lambda: own_step(config, stage, layout, compiled=GPU, fp8=True)
    near = {"ours, fp8": 0.05}  # what 8 bits do to a loss with random weights
    kind = arguments.rows[0]
    for name, peer in peers.items():
        if GPU:
            torch.cuda.empty_cache()
        try:
            lines.append(line(name, kind, peer()))
        except torch.OutOfMemoryError:
            lines.append([f"{tokens}", f"{number}", kind, again, name, "out of memory", *"-----"])
            continue
        if not abs(first["ours"] - first[name]) <= near.get(name, 1e-2 if GPU else 1e-4) * abs(first[name]):
            raise SystemExit(f"{tokens} tokens, stage {number}: loss {first['ours']:.5f}, {name} {first[name]:.5f}")
        lines[-1][-1] = f"{float(lines[0][5]) / float(lines[-1][5]):.2f}x"
        if name == "authors' kit" and not GPU:
            lines[-1][5:] = ["the same loss", *"-----"]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default=DEVICE.type)
    parser.add_argument("--size", choices=SIZES, default="2b" if GPU else "tiny")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 36864] if GPU else [512])
    parser.add_argument("--stage", type=int, choices=TRAINS, nargs="+", default=[*TRAINS])
    parser.add_argument("--rows", choices=KINDS, nargs="+", default=["image", "video", "mixed"])
    parser.add_argument("--checkpointing", choices=("none", "selective", "full"))
    parser.add_argument("--recomputed-layers", type=int, metavar="N", help="on a GPU by default the fewest that fit")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-peer", action="store_true", help="without plain torch")
    parser.add_argument("--fp8", action="store_true", help="a line with the layers' products in 8-bit floats as well")
    parser.add_argument("--kit", type=Path, metavar="DIR", help="a clone's VLMTrainKit, see authors_kit.py")
    arguments = parser.parse_args()
    if arguments.device != DEVICE.type:
        raise SystemExit(
            f"--device {arguments.device}: the device here is {DEVICE.type}; CUDA_VISIBLE_DEVICES= hides one"
        )
    if GPU:
        torch.cuda.set_device(0)
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
    lines = [
        line for tokens in arguments.tokens for stage in arguments.stage for line in measure(arguments, tokens, stage)
    ]
    head = ["tokens", "stage", "row", "recomputed", "way", "tokens/s", "MFU", "peak MiB", "expected MiB"]
    head += ["J / 1K tokens", "ours / peer"]
    print_table(f"training steps, {arguments.size}, on {place()}", head, lines)
    if GPU:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
