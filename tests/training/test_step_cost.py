"""What a training step must not do: compile again, wait for the device, compute or keep what frozen parts need not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._dynamo import lookup_backend
from torch._dynamo.utils import counters
from torch.utils.flop_counter import FlopCounterMode

from neo_lightning.model.generate import generate
from neo_lightning.model.lora import Lora, is_term
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.training.build import Init, build_model
from neo_lightning.training.optim import build_optimizer
from neo_lightning.training.stages import apply_stage
from neo_lightning.training.step import clip_gradients, modality_losses
from neo_lightning.types import PackedBatch, Stage

from .tiny import CONFIG, make_row, stages

LENGTH = 300


def build(device: str = "cpu", **options: Any) -> Neo:
    return build_model(CONFIG, Init(seed=1), stages=stages(), device=torch.device(device), **options)


def freeze(model: Neo, *trains: str) -> None:
    stage = Stage(steps=1, context=LENGTH, packs_per_step=1, mixture={"x": 1.0}, lr=1e-3, trains=trains)
    apply_stage(model, stage, CONFIG.extra_num_layers)


def row(seed: int, sizes: list[int], images: int) -> PackedBatch:
    """A row of LENGTH tokens with causal documents of these sizes, the rest padding, and so many images."""
    lengths = torch.tensor([*sizes, LENGTH - sum(sizes)])
    start = (lengths.cumsum(0) - lengths).repeat_interleave(lengths).int()
    return replace(make_row(seed, LENGTH, images=images), start=start, limit=torch.arange(1, LENGTH + 1).int())


LAYOUTS = [([140, 100], 1), ([20] * 14, 3), ([299], 0), ([131, 150, 3], 2), ([1, 2, 290], 5)]


class Graphs:
    """A compiler that remembers what it is given, and runs it as it is or (`aot`) split into forward and backward."""

    def __init__(self, *, aot: bool = False) -> None:
        self.aot = aot
        torch._dynamo.reset()
        counters.clear()
        self.inputs: list[list[Any]] = []

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        self.inputs.append(inputs)
        return lookup_backend("aot_eager")(graph, inputs) if self.aot else graph.forward

    def __enter__(self) -> Graphs:
        torch.compiler.set_stance("default", force_backend=self)
        return self

    def __exit__(self, *error: Any) -> None:
        torch.compiler.set_stance("default")
        torch._dynamo.reset()

    def assert_whole(self) -> None:
        """Nothing left a graph, nothing was compiled for any shape, no limit was hit."""
        assert not counters["graph_break"], dict(counters["graph_break"])
        sizes = [size for inputs in self.inputs for x in inputs for size in (x.shape if hasattr(x, "shape") else [x])]
        assert sizes
        assert {type(size) for size in sizes} == {int}


def checkpointed(mode: str) -> dict[str, Any]:
    """Options of `build`; with attention that compiles, as the tiled one leaves the graph."""
    return {
        "activation_checkpointing": "selective" if mode == "mixed" else mode,
        "recomputed_layers": int(mode == "mixed"),
        "attention": "reference",
    }


def modes(fast: str) -> pytest.MarkDecorator:
    """All kinds of checkpointing, but one in the slow tests."""
    kinds = ("none", "selective", "mixed", "full")
    return pytest.mark.parametrize("mode", [pytest.param(m, marks=[pytest.mark.slow] * (m != fast)) for m in kinds])


@modes(fast="selective")
def test_compiled_blocks_are_compiled_once_per_stage_whatever_the_packs_hold(mode: str) -> None:
    model = build(compile_blocks=True, **checkpointed(mode))
    compiled = []
    with Graphs(aot=mode != "selective") as graphs:
        for trains in (("patch_embedding", "pre_buffer", "hw"), ("all",)):
            freeze(model, *trains)
            for seed, (sizes, images) in enumerate(LAYOUTS):
                model(row(seed, sizes, images)).loss_sum.backward()
                compiled.append(len(graphs.inputs))
        graphs.assert_whole()
    assert 0 < compiled[0] <= compiled[-1], "what the stage trains is part of the graph"
    assert compiled[: len(LAYOUTS)] == [compiled[0]] * len(LAYOUTS)
    assert compiled[len(LAYOUTS) :] == [compiled[-1]] * len(LAYOUTS)


@modes(fast="none")
def test_every_row_length_has_whole_graphs_of_its_own_also_without_gradients(mode: str) -> None:
    """A validation in front of the first step, as Lightning does it, and three lengths: more graphs than 8."""
    model, plain = build(compile_blocks=True, **checkpointed(mode)), build(attention="reference")
    freeze(model, "patch_embedding", "pre_buffer", "hw")
    compiled = []
    with Graphs() as graphs:
        for length in (24, 32, 48) * 2:
            batch = make_row(1, length)
            with torch.no_grad():
                evaluated = model(batch).loss_sum
            loss = model(batch).loss_sum
            loss.backward()
            torch.testing.assert_close((evaluated, loss.detach()), (plain(batch).loss_sum.detach(),) * 2)
            compiled.append(len(graphs.inputs))
        graphs.assert_whole()
    # the pre-buffer's layer and the others, each with and without gradients
    assert compiled == [4, 8, 12, 12, 12, 12]


@pytest.mark.parametrize(
    ("mode", "bits"),
    [
        ("selective", None),
        ("selective", 8),
        ("selective", 4),
        *(pytest.param(mode, bits, marks=pytest.mark.slow) for mode, bits in (("none", 4), ("mixed", 8), ("full", 4))),
    ],
)
def test_low_rank_terms_compile_whole_whatever_their_base_lies_in(mode: str, bits: Any) -> None:
    """And give the gradients of what is not compiled."""
    lora, one = Lora(rank=2, alpha=4.0, base_bits=bits), {"one": replace(stages()["mid_training"], trains=("lora",))}
    how: dict[str, Any] = {"stages": one, "device": torch.device("cpu"), "lora": lora, "attention": "reference"}
    plain = build_model(CONFIG, Init(seed=1), **how)
    model = build_model(CONFIG, Init(seed=1), **{**how, **checkpointed(mode)}, compile_blocks=True)
    batch = make_row(0)
    with Graphs(aot=True) as graphs:
        for each in (plain, model):
            freeze(each, "lora")
            with torch.no_grad():
                for name, parameter in each.named_parameters():
                    if name.endswith(".B"):
                        parameter.fill_(0.1)  # fresh ones hide A's gradient
            each(batch).loss_sum.backward()
        graphs.assert_whole()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    expected = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert all(is_term(name) for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=name)


def test_answers_are_generated_without_compiling() -> None:
    """Prompts and caches have any length."""
    model = build(compile_blocks=True, attention="reference")
    prompts = [
        Prompt(
            input_ids=torch.arange(n),
            visual=torch.zeros(n, dtype=torch.bool),
            grids=torch.zeros(0, 2, dtype=torch.int32),
            patches=torch.zeros(0, 768, dtype=torch.uint8),
        )
        for n in (3, 5)
    ]
    with Graphs() as graphs:
        answers = generate(model, prompts, max_new_tokens=3)
    assert graphs.inputs == []
    assert answers == generate(build(attention="reference"), prompts, max_new_tokens=3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: only its work can be waited for")
def test_a_micro_batch_and_the_optimiser_never_wait_for_the_gpu() -> None:
    model = build("cuda")
    optimizer = build_optimizer(model, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01, lr_scales={})
    batches = [row(seed, *layout).pin_memory() for seed, layout in enumerate(LAYOUTS)]
    for i, batch in enumerate(batches):
        torch.cuda.set_sync_debug_mode("error" if i else "default")  # the first step compiles the kernels
        try:
            on_device = batch.to("cuda", non_blocking=True)
            loss_sum, nll, places = model(on_device)
            loss_sum.backward()
            modality_losses(on_device, nll, places)
            clip_gradients(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def backward_flops(model: Neo, batch: PackedBatch) -> int:
    loss = model(batch).loss_sum
    with FlopCounterMode(display=False) as counter:
        loss.backward()
    return counter.get_total_flops()


def test_stage_1_multiplies_nothing_for_frozen_weights() -> None:
    model, batch = build(), row(0, *LAYOUTS[0])
    freeze(model, "all")
    everything = backward_flops(model, batch)
    freeze(model, "patch_embedding", "pre_buffer", "hw")
    frozen = [p.numel() for p in model.layers.parameters() if p.ndim == 2 and not p.requires_grad]
    assert len(frozen) == 7 * (CONFIG.num_hidden_layers - CONFIG.extra_num_layers)
    assert backward_flops(model, batch) == everything - 2 * LENGTH * sum(frozen)


def kept(model: Neo, batch: PackedBatch) -> list[int]:
    """Elements that the forward pass has kept for the backward when each layer begins, and in the end."""
    storages: dict[int, int] = {}
    counts: list[int] = []
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def note(x: torch.Tensor) -> torch.Tensor:
        if (place := x.untyped_storage().data_ptr()) not in parameters:
            storages[place] = x.untyped_storage().nbytes() // x.element_size()
        return x

    hooks = [
        block.register_forward_pre_hook(lambda *_: counts.append(sum(storages.values()))) for block in model.layers
    ]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = model(batch).loss_sum
    for hook in hooks:
        hook.remove()
    counts.append(sum(storages.values()))
    del loss
    return counts


def test_nothing_is_kept_below_the_first_trained_parameter() -> None:
    model, batch = build(), row(0, *LAYOUTS[0])
    last = CONFIG.num_hidden_layers - 1
    freeze(model, f"language_model.model.layers.{last}.*")
    *before, total = kept(model, batch)
    assert before == [0] * CONFIG.num_hidden_layers
    assert total > 0


def test_stage_1_keeps_no_inputs_of_frozen_projections() -> None:
    """Those of o_proj and down_proj; the norm in front of gate and up keeps its own input."""
    model, batch = build(), row(0, *LAYOUTS[0])
    freeze(model, "all")
    everything = kept(model, batch)[-1]
    freeze(model, "patch_embedding", "pre_buffer", "hw")
    inputs = CONFIG.num_attention_heads * CONFIG.head_dim + CONFIG.intermediate_size
    frozen_layers = CONFIG.num_hidden_layers - CONFIG.extra_num_layers
    assert everything - kept(model, batch)[-1] >= frozen_layers * LENGTH * inputs
