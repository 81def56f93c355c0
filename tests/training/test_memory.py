"""Memory as reckoned against memory as allocated: real steps on the CPU, and on a GPU that is only pretended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo
from neo_lightning.ops.linear_cross_entropy import CHUNK
from neo_lightning.training.memory import (
    Layout,
    RowCounts,
    layer_activations,
    loss_buffers,
    patch_activations,
    shared_activations,
    step_memory,
)
from neo_lightning.training.sequence import sharing
from neo_lightning.training.stages import trained_names

from .tiny import CONFIG, make_row

ROOT = Path(__file__).resolve().parents[2]
TWO_B = NeoConfig()
STAGE_1 = ("patch_embedding", "pre_buffer", "hw")
ROW = RowCounts(tokens=4096, visual=3000, supervised=500, pairs=4096 * 500)


def assert_as_reckoned(precision: str, cases: int, *options: str) -> None:
    """Part by part; see the script."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "benchmarks" / "memory.py"), "--precision", precision, *options]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(precision) == cases, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_steps_memory_is_as_reckoned(precision: str) -> None:
    """Stages 1 and 2, and low-rank terms, under every kind of checkpointing."""
    assert_as_reckoned(precision, 12, "--stage", "1", "2", "3")


@pytest.mark.slow
def test_memory_beside_a_base_in_8_and_4_bits_is_as_reckoned() -> None:
    assert_as_reckoned("bf16-mixed", 4, "--stage", "4", "5", "--checkpointing", "none", "full")


@pytest.mark.slow
def test_memory_of_the_richest_step_is_as_reckoned() -> None:
    """Everything trained, some layers recomputed whole and the others in part."""
    assert_as_reckoned("32-true", 1, "--stage", "2", "--checkpointing", "mixed")


@contextmanager
def saved_bytes(parameters: Iterator[Tensor]) -> Iterator[list[int]]:
    """Bytes of all storages that autograd keeps, parameters left out; a list of one number, filled at the end."""
    storages: dict[int, tuple[int, Tensor]] = {}

    def keep(x: Tensor) -> Tensor:
        storages[x.untyped_storage()._cdata] = (x.untyped_storage().nbytes(), x)  # alive, so that no number is reused
        return x

    own = {p.untyped_storage()._cdata for p in parameters}
    found: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        yield found
    found.append(sum(size for storage, (size, _) in storages.items() if storage not in own))


def fake_row(row: RowCounts) -> SimpleNamespace:
    """The fields of a PackedBatch that are looked at here; a whole one counts its targets, which need values."""

    def full(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device="cuda")

    t, long = row.tokens, torch.long
    return SimpleNamespace(
        input_ids=full(t, dtype=long),
        positions=full(t, 3),
        start=full(t),
        limit=full(t),
        visual_index=full(row.visual, dtype=long),
        patches=full(4 * row.visual, 768, dtype=torch.uint8),
        grids=full(2, 2),
    )


@pytest.mark.parametrize("trains", [STAGE_1, ("all",)], ids=["stage 1", "stage 2"])
def test_the_gpus_kernels_keep_what_is_reckoned(trains: tuple[str, ...]) -> None:
    """The 2B's first and last layer on fake CUDA tensors in bfloat16: shapes are real, nothing is computed."""
    config = replace(TWO_B, num_hidden_layers=2, extra_num_layers=1)
    layout = Layout(checkpointing="none", kernels="triton")
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            model = Neo(config)
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
        trained = trained_names((name for name, _ in model.named_parameters()), trains, 1)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        batch = fake_row(ROW)
        with saved_bytes(model.parameters()) as front:
            x = model.embed(batch.input_ids, batch.visual_index, batch.patches, batch.grids)
        row = model.row(batch.positions, batch.start, batch.limit)
        assert row.backend == "triton"
        kept = []
        for layer in model.layers:
            with saved_bytes(model.parameters()) as found:
                y = layer(x, row)
            # what all layers share is counted once: cosines and sines, and four bounds of the mask
            kept.append(found[0] - row.rope.turn.untyped_storage().nbytes() - 4 * 4 * ROW.tokens)
            x = y.detach().requires_grad_()
    for i, measured in enumerate(kept):
        assert layer_activations(config, trained.__contains__, i, ROW, layout) == pytest.approx(measured, rel=0.002)
    assert patch_activations(config, trained.__contains__, ROW, layout) == pytest.approx(front[0], rel=0.002)
    assert shared_activations(config, ROW, layout) > row.rope.turn.untyped_storage().nbytes()


def test_a_row_is_reckoned_whole_on_a_gpu() -> None:
    """All of its tensors but the sizes of its images, rotations, and two more bounds a token."""
    batch = make_row(0, images=2)
    tensors = [x for x in vars(batch).values() if isinstance(x, Tensor)]
    own = sum(x.nbytes for x in tensors) - batch.grids.nbytes
    row = RowCounts(tokens=24, visual=4, supervised=batch.places.numel(), pairs=300)
    rotations = 4 * 24 * 2 * CONFIG.head_dim
    assert shared_activations(CONFIG, row, Layout()) == own + rotations + 2 * 4 * 24


def test_the_loss_is_reckoned_at_its_height() -> None:
    """Hidden states and their gradients, the head's gradient, and the larger of what a chunk of logits becomes."""
    few, many = (replace(ROW, supervised=n) for n in (100, 10_000))
    width, vocabulary = TWO_B.hidden_size, TWO_B.vocab_size
    head = vocabulary * width
    plain = Layout(bf16=False, kernels="eager")
    assert loss_buffers(TWO_B, 0, few, plain) == 4 * 2 * 100 * width + 2 * 4 * 100 * vocabulary
    assert loss_buffers(TWO_B, 0, many, plain) == 4 * 2 * 10_000 * width + 2 * 4 * CHUNK * vocabulary
    assert loss_buffers(TWO_B, head, few, plain) == loss_buffers(TWO_B, 0, few, plain) + 4 * head
    hidden, sums = 2 * 2 * 100 * width, 4 * head
    made = (4 + 2) * 100 * vocabulary + 2 * head
    assert loss_buffers(TWO_B, head, few, Layout()) == hidden + sums + made
    assert loss_buffers(TWO_B, head, few, Layout(kernels="eager")) == hidden + sums + made + 4 * head
    assert loss_buffers(TWO_B, 0, few, Layout()) == hidden + 2 * 4 * 100 * vocabulary


def test_a_2b_step_on_eight_devices_adds_up() -> None:
    with torch.device("meta"):
        sizes = {name: p.numel() for name, p in Neo(TWO_B).named_parameters()}
    everything = sum(sizes.values())
    whole = step_memory(TWO_B, sizes, lambda name: True, ROW, Layout(shard_size=1))
    eighth = step_memory(TWO_B, sizes, lambda name: True, ROW, Layout(shard_size=8))
    assert (whole.masters, whole.moments, whole.gradients) == (4 * everything, 8 * everything, 4 * everything)
    assert eighth.masters == pytest.approx(everything / 2, abs=8)
    assert eighth.gathered == whole.gathered
    assert eighth.gathered_layers == 2 * whole.gathered_layers, "the next layer arrives while one works"
    assert whole.peak - eighth.peak > 12 * everything * 7 / 8 - eighth.gathered_layers - 4 * everything
    more = step_memory(TWO_B, sizes, lambda name: True, ROW, Layout(shard_size=8, micro_batches=4))
    assert more.peak > eighth.peak, "gradients stay between micro-batches"
    frozen = step_memory(TWO_B, sizes, lambda name: "vision_model" in name, ROW, Layout(shard_size=8))
    assert frozen.moments < eighth.moments / 100


@pytest.mark.parametrize("parts", [2, 16])
def test_a_layer_of_a_shared_row_keeps_what_is_reckoned(parts: int) -> None:
    """As above, of half of a row, and of a sixteenth, for which key heads are repeated. Nothing is sent."""
    config = replace(TWO_B, num_hidden_layers=2, extra_num_layers=1)
    layout = Layout(checkpointing="none", kernels="triton", sequence_size=parts)
    if dist.is_initialized():  # a run of another file's, in this process
        dist.destroy_process_group()
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=parts)
    part = ROW.part(parts)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            with torch.device("cuda"):
                model = Neo(config)
            for parameter in model.parameters():
                parameter.data = parameter.data.to(torch.bfloat16)
            batch = fake_row(part)
            whole = fake_row(replace(ROW, tokens=parts * part.tokens))
            row = sharing(config, dist.group.WORLD)(model.row(batch.positions, whole.start, whole.limit))
            x = model.embed(batch.input_ids, batch.visual_index, batch.patches, batch.grids)
            kept = []
            for layer in model.layers:
                with saved_bytes(model.parameters()) as found:
                    y = layer(x, row)
                shared = row.rope.turn.untyped_storage().nbytes() + 4 * 4 * parts * part.tokens
                kept.append(found[0] - shared)
                x = y.detach().requires_grad_()
    finally:
        dist.destroy_process_group()
    for i, measured in enumerate(kept):
        assert layer_activations(config, lambda name: True, i, part, layout) == pytest.approx(measured, rel=0.002)
