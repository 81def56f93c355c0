"""Memory of one device during a training step, from what each part of this code keeps and for how long.

In: a network, what a stage trains, a row's counts, how the run is laid out over devices. Out: `StepMemory`, bytes by
part and the peak. Pure arithmetic: what an operation of `ops` keeps for its backward pass (by backend), what
`parallel` recomputes, what FSDP2 gathers and reduces. `benchmarks/memory.py` compares it with measured steps.

A step's memory is highest at one of these moments, and all of them are computed:

    the loss is made            all activations, logits of a chunk, the head's gradient
    a layer's backward begins   activations up to it, what it recomputes, its temporaries, gradients behind it
    the last layer is through   all layers' gradients, the patch embedding's activations
    the root's are reduced      all gradients, those of embeddings and head twice
    Muon moves matrices         all gradients, and what it makes of those that it moves together

Left out: what an allocator loses to fragments (`devices.ROUNDING`); buffers of NCCL, the CUDA context and workspaces of
kernels (`devices.RESERVE`). Compiled layers are counted as eager ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from neo_lightning.model.config import PATCH_CHANNELS, NeoConfig
from neo_lightning.ops.interval_attention.tiled import KEPT_BIAS, ROWS
from neo_lightning.ops.linear_cross_entropy import CHUNK
from neo_lightning.training.layer_memory import FLOAT, Layout, RowCounts, layer_activations, layer_backward
from neo_lightning.training.muon import floats_of_step
from neo_lightning.training.optim import orthogonal
from neo_lightning.training.term_memory import TermsOfRun

__all__ = ["FLOAT", "Layout", "RowCounts", "StepMemory", "layer_activations", "layer_backward", "step_memory"]

_EMBEDDINGS = "language_model.model.embed_tokens.weight"
_PATCHES = "vision_model.embeddings."
_LAYERS = "language_model.model.layers."


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes on one device, each part where it is largest; they do not all fall together."""

    masters: int
    """This rank's part of the weights: float32, but for what model.lora leaves frozen."""
    moments: int
    """AdamW's two for each trained parameter; Muon's one for a projection."""
    averages: int
    """The average of each trained parameter, where one is kept."""
    gradients: int
    """This rank's part, reduced, float32."""
    gathered: int
    """Weights as computed with: the root's (embeddings, head, patch embedding) through the whole step."""
    gathered_layers: int
    """The layer at work, and beside it the next one where they come from other ranks; all where they stay gathered."""
    activations: int
    """Kept from a row's forward pass for its backward pass; the row itself on a GPU."""
    layer: int
    """Beside that in one layer's backward pass: what it recomputes, and temporaries."""
    loss: int
    """Logits of a chunk, the last hidden states, the head's gradient as the loss makes it."""
    root: int
    """Beside the gradients, when those of the root are made and reduced."""
    peak: int
    """The most at one time."""
    snapshot: int
    """In host memory, from the first save on: the copy of weights, moments and averages that is written while training
    goes on (`checkpoint.snapshot`). A CPU needs it beside the peak."""


def step_memory(
    config: NeoConfig,
    sizes: Mapping[str, int],
    trained: Callable[[str], bool],
    row: RowCounts,
    layout: Layout,
    terms: TermsOfRun | None = None,
) -> StepMemory:
    """Memory of a training step in its steady state (the optimiser's moments exist).

    Args:
        config: the network.
        sizes: elements of each parameter, by name.
        trained: whether the parameter of a name is trained.
        row: a row of the stage, or the part of it that a rank has.
        layout: devices, precision, recomputation.
        terms: low-rank ones, whose parameters are among those of `sizes` and trained.
    """
    terms = terms or TermsOfRun()
    c, ranks, sharded = layout.width, layout.shard_size, layout.sharded
    moving = {name: size * trained(name) for name, size in sizes.items()}
    masters = layout.masters(sizes) // ranks
    layers = [layout.gathered(_part(sizes, i)) for i in range(config.num_hidden_layers)]
    grads = [sum(_part(moving, i).values()) for i in range(config.num_hidden_layers)]
    root, root_grad = layout.gathered(sizes) - sum(layers), sum(moving.values()) - sum(grads)
    head = moving[_EMBEDDINGS if config.tie_word_embeddings else "language_model.lm_head.weight"]
    stream = row.tokens * config.hidden_size * c
    gradients = FLOAT * sum(moving.values()) // ranks
    carried = gradients if layout.micro_batches > 1 else 0

    kept = [layer_activations(config, trained, i, row, layout, terms) for i in range(config.num_hidden_layers)]
    front, shared = patch_activations(config, trained, row, layout, terms), shared_activations(config, row, layout)
    activations = shared + front + sum(kept) + stream
    extra = [layer_backward(config, trained, i, row, layout, terms) for i in range(config.num_hidden_layers)]
    loss = loss_buffers(config, head, row, layout) + stream
    root_weights = root * sharded
    at_once = sum(layers) if layout.keep_gathered else max(layers, default=0) * (1 + (ranks > 1))
    layer_weights = at_once * sharded

    always = masters + root_weights + carried
    turned = [size for name, size in moving.items() if layout.optimizer == "muon" and orthogonal(name)]
    moments = FLOAT * (2 * sum(moving.values()) - sum(turned)) // ranks
    averages = FLOAT * sum(moving.values()) // ranks * layout.averaged
    always += moments + averages
    moments_of_step = [always + activations + loss]
    left, made, sent = activations, 0, 0
    for i in reversed(range(config.num_hidden_layers)):
        moments_of_step.append(always + layer_weights + left + c * head + made + sent + extra[i])
        left -= kept[i]
        made += 0 if carried else FLOAT * grads[i] // ranks
        sent = FLOAT * grads[i] * sharded
    # the patch embedding's backward, beside the last layer's reduction: rotated in float32, bfloat16 is copied for it
    embeddings = moving[_EMBEDDINGS]
    rotation = FLOAT * (1 + layout.bf16) * 4 * row.visual * config.patch_hidden_size * (front > 0)
    through = made + sent + shared + front + stream * (embeddings > 0) + rotation + c * head
    # then the embedding's, a second gradient beside the head's if that is tied, and the reduction of all the root's
    twice = made + sent + c * (root_grad + min(head, embeddings))
    result = 0 if carried else FLOAT * root_grad // ranks
    reduced = made + (FLOAT * root_grad + max(c * root_grad, result)) * sharded
    ends = max(through, twice, reduced)
    moments_of_step.append(always + ends)
    moments_of_step.append(always + gradients - carried + FLOAT * floats_of_step(filter(None, turned), ranks))
    return StepMemory(
        masters=masters,
        moments=moments,
        averages=averages,
        gradients=gradients,
        gathered=root_weights,
        gathered_layers=layer_weights,
        activations=activations,
        layer=max(extra, default=0),
        loss=loss,
        root=ends + carried - gradients,
        peak=max(moments_of_step),
        snapshot=masters + moments + averages,
    )


def _part(sizes: Mapping[str, int], layer: int) -> dict[str, int]:
    """Elements of a layer's parameters."""
    return {name: size for name, size in sizes.items() if name.startswith(f"{_LAYERS}{layer}.")}


def patch_activations(
    config: NeoConfig,
    trained: Callable[[str], bool],
    row: RowCounts,
    layout: Layout,
    terms: TermsOfRun = TermsOfRun(),  # noqa: B008 - frozen
) -> int:
    """Bytes that the patch embedding keeps: pixels, what GELU and Conv2 take in, the rotation, Conv2's matrix, and its
    output (torch's `index_copy` keeps it for its shape)."""
    c, patches, channels = layout.width, 4 * row.visual, config.patch_hidden_size
    weights = [f"{_PATCHES}{name}_embedding.weight" for name in ("patch", "dense")]
    first, second = (trained(name) or name in terms.ranks for name in weights)
    first = first or trained(f"{_PATCHES}patch_embedding.bias")
    kept = patches * (c * PATCH_CHANNELS + c * channels + FLOAT * channels) * first + patches * c * channels * second
    return kept + config.hidden_size * c * (4 * channels * first + row.visual * (first or second))


def shared_activations(config: NeoConfig, row: RowCounts, layout: Layout) -> int:
    """Bytes that all layers share: rotations, the mask, and on a GPU the row itself."""
    rotations = row.tokens * 2 * config.head_dim * FLOAT
    if layout.kernels == "triton":
        ids = 8 + 12 + 8 + 4 + 8  # a token's fields in PackedBatch but for the mask, which is the whole row's
        mask = 4 * FLOAT * layout.sequence_size
        return rotations + row.tokens * (ids + mask) + row.visual * (8 + 4 * PATCH_CHANNELS) + row.supervised * 8
    group = config.num_attention_heads // config.num_key_value_heads
    masks = layout.sequence_size * (row.pairs + row.tokens * ROWS // 2)
    return rotations + FLOAT * group * masks * (masks <= KEPT_BIAS)


def loss_buffers(config: NeoConfig, head: int, row: RowCounts, layout: Layout) -> int:
    """Bytes of `linear_cross_entropy` at its height, `head` being the elements of the head's gradient (0: frozen)."""
    c, chunk = layout.width, min(CHUNK, row.supervised) * config.vocab_size
    hidden = 2 * row.supervised * config.hidden_size * c  # the supervised rows and their gradient
    exponentials = 2 * FLOAT * chunk  # logits, and what log-sum-exp makes of them
    product = 0
    if head and layout.bf16:  # logits, their gradient rounded, and the product that is added to the head's
        product = (FLOAT + c) * chunk + c * head + FLOAT * head * (layout.kernels == "eager")  # a CPU casts it first
    return hidden + FLOAT * head + max(exponentials, product)
