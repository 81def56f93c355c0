"""Memory of one device during a training step, from what each part of this code keeps and for how long.

In: a network, what a stage trains, a row's counts, how the run is laid out over devices. Out: `StepMemory`, bytes by
part and the peak. Pure arithmetic: what an operation of `ops` keeps for its backward pass (by backend), what
`parallel` recomputes, what FSDP2 gathers and reduces. `benchmarks/memory.py` compares it with measured steps.

A step's memory is highest at one of these moments, and all of them are computed:

    the loss is made            all activations, logits of a chunk, the head's gradient
    a layer's backward begins   activations up to it, what it recomputes, its temporaries, gradients behind it
    the last layer is through   all layers' gradients, the patch embedding's activations
    the root's are reduced      all gradients, those of embeddings and head twice

Left out: what an allocator loses to fragments (`devices.ROUNDING`); buffers of NCCL, the CUDA context and workspaces of
kernels (`devices.RESERVE`). Compiled layers are counted as eager ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from neo_lightning.model.config import PATCH_CHANNELS, NeoConfig
from neo_lightning.ops.interval_attention.tiled import KEPT_BIAS, KEPT_SCORES, ROWS
from neo_lightning.ops.linear_cross_entropy import CHUNK
from neo_lightning.training.parallel import ActivationCheckpointing

FLOAT = 4
"""Bytes of float32: masters, moments, reduced gradients, statistics of norms."""
_EMBEDDINGS = "language_model.model.embed_tokens.weight"
_PATCHES = "vision_model.embeddings."
_LAYERS = "language_model.model.layers."


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a step is laid out over devices and in time."""

    shard_size: int = 1
    """Ranks that share one copy of the parameters."""
    copies: int = 1
    """Copies of the parameters."""
    bf16: bool = True
    """bf16-mixed: compute in bfloat16, masters in float32. False: all in float32."""
    checkpointing: ActivationCheckpointing = "none"
    averaged: bool = False
    """An average of the weights is kept (`training.ema`)."""
    recomputed_layers: int = 0
    """So many, the first, are under `full`, whatever the others are under."""
    micro_batches: int = 1
    """Rows that a rank works through in a step, one after the other."""
    kernels: Literal["triton", "eager"] = "triton"
    """Backends of `ops`: they keep different things. `triton` on a GPU, `eager` (attention: `tiled`) on a CPU."""

    def mode(self, layer: int) -> ActivationCheckpointing:
        """What a layer is under."""
        return "full" if layer < self.recomputed_layers else self.checkpointing

    @property
    def width(self) -> int:
        """Bytes of a number as computed with."""
        return 2 if self.bf16 else FLOAT

    @property
    def sharded(self) -> bool:
        """FSDP2 is at work: parameters are gathered, gradients reduced."""
        return self.bf16 or self.shard_size * self.copies > 1


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """A packed row."""

    tokens: int
    visual: int
    """Visual tokens; each has four patches."""
    supervised: int
    pairs: int
    """Query-key pairs that the mask lets through."""
    patch_pairs: int = 0
    """Sum over pictures of their patches squared."""


@dataclass(frozen=True, kw_only=True)
class StepMemory:
    """Bytes on one device, each part where it is largest; they do not all fall together."""

    masters: int
    """This rank's part of the float32 weights."""
    moments: int
    """AdamW's two for each trained parameter."""
    averages: int
    """The average of each trained parameter, where one is kept."""
    gradients: int
    """This rank's part, reduced, float32."""
    gathered: int
    """Weights as computed with: the root's (embeddings, head, patch embedding) through the whole step."""
    gathered_layers: int
    """The layer at work, and beside it the next one where they come from other ranks."""
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
    """In host memory, from the first save on: the copy of weights and moments that is written while training goes on
    (`checkpoint.snapshot`). A CPU needs it beside the peak."""


def step_memory(
    config: NeoConfig,
    sizes: Mapping[str, int],
    trained: Callable[[str], bool],
    row: RowCounts,
    layout: Layout,
) -> StepMemory:
    """Memory of a training step in its steady state (AdamW's moments exist).

    Args:
        config: the network.
        sizes: elements of each parameter, by name.
        trained: whether the parameter of a name is trained.
        row: a row of the stage.
        layout: devices, precision, recomputation.
    """
    c, ranks, sharded = layout.width, layout.shard_size, layout.sharded
    moving = {name: size * trained(name) for name, size in sizes.items()}
    layers = [_part(sizes, i) for i in range(config.num_hidden_layers)]
    grads = [_part(moving, i) for i in range(config.num_hidden_layers)]
    root, root_grad = sum(sizes.values()) - sum(layers), sum(moving.values()) - sum(grads)
    head = moving[_EMBEDDINGS if config.tie_word_embeddings else "language_model.lm_head.weight"]
    stream = row.tokens * config.hidden_size * c
    gradients = FLOAT * sum(moving.values()) // ranks
    carried = gradients if layout.micro_batches > 1 else 0

    kept = [layer_activations(config, trained, i, row, layout) for i in range(config.num_hidden_layers)]
    front, shared = patch_activations(config, trained, row, layout), shared_activations(config, row, layout)
    activations = shared + front + sum(kept) + stream
    extra = [layer_backward(config, trained, i, row, layout) for i in range(config.num_hidden_layers)]
    loss = loss_buffers(config, head, row, layout) + stream
    root_weights = c * root * sharded
    layer_weights = c * max(layers, default=0) * (1 + (ranks > 1)) * sharded

    always = FLOAT * sum(sizes.values()) // ranks + root_weights + carried
    moments = 2 * FLOAT * sum(moving.values()) // ranks
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
    return StepMemory(
        masters=FLOAT * sum(sizes.values()) // ranks,
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
        snapshot=FLOAT * sum(sizes.values()) // ranks + moments,
    )


def _part(sizes: Mapping[str, int], layer: int) -> int:
    """Elements of a layer."""
    return sum(size for name, size in sizes.items() if name.startswith(f"{_LAYERS}{layer}."))


@dataclass(frozen=True)
class _Widths:
    """Columns of a token in a layer."""

    stream: int
    q: int
    kv: int
    mlp: int
    heads: int
    """Of queries and keys."""

    @classmethod
    def of(cls, config: NeoConfig) -> _Widths:
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        widths = config.hidden_size, heads * config.head_dim, kv_heads * config.head_dim, config.intermediate_size
        return cls(*widths, heads + kv_heads)


def layer_activations(
    config: NeoConfig, trained: Callable[[str], bool], layer: int, row: RowCounts, layout: Layout
) -> int:
    """Bytes that a layer keeps of one row from forward to backward under the layout's checkpointing."""
    w = _Widths.of(config)
    if layout.mode(layer) == "none":
        return _whole_layer(config, trained, layer, row, layout)
    if layout.mode(layer) == "full":
        return row.tokens * layout.width * w.stream  # its input
    # its input and what its products give: projections of q, k, v, o, gate, up
    numbers = 2 * w.stream + 2 * w.q + 3 * w.kv + 2 * w.mlp
    if layout.kernels == "triton":  # the attention's output, and a float a head
        return row.tokens * (layout.width * (numbers + w.q) + FLOAT * config.num_attention_heads)
    return row.tokens * (layout.width * numbers + FLOAT * 4 * w.heads)  # means of QK norms are products


def _whole_layer(config: NeoConfig, trained: Callable[[str], bool], layer: int, row: RowCounts, layout: Layout) -> int:
    """Bytes that a layer keeps without checkpointing. A frozen projection does not keep its input."""
    w, eager = _Widths.of(config), layout.kernels == "eager"

    def on(*names: str) -> bool:
        return any(trained(f"{_LAYERS}{layer}.{name}.weight") for name in names)

    inputs = tuple(f"self_attn.{name}" for name in ("q_proj", "q_proj_hw", "k_proj", "k_proj_hw", "v_proj"))
    numbers = w.stream + w.stream * on(*inputs)  # the first norm's input and output
    numbers += (2 * w.q + 2 * w.kv) * (1 + (eager and not layout.bf16))  # QK norm's inputs; v holds the product as well
    numbers += 2 * w.q + 3 * w.kv  # q, k and v
    numbers += w.q * (not eager or on("self_attn.o_proj"))  # attention's output, which the kernel keeps for itself too
    numbers += w.stream + w.stream * on("mlp.gate_proj", "mlp.up_proj")  # the second norm's input and output
    numbers += w.mlp * (2 + eager)  # gate, up; torch keeps silu(gate) too
    numbers += w.mlp * on("mlp.down_proj")
    floats = 4 * w.heads + 2 if eager else config.num_attention_heads  # inverse lengths; log-sum-exp
    # half of a tile of the `tiled` attention is masked at its right end
    scores = config.num_attention_heads * (row.pairs + row.tokens * ROWS // 2)
    kept = eager and not layout.bf16 and scores <= KEPT_SCORES * row.tokens * (2 * w.q + 3 * w.kv)
    return row.tokens * (layout.width * numbers + FLOAT * floats) + FLOAT * scores * kept


def layer_backward(
    config: NeoConfig, trained: Callable[[str], bool], layer: int, row: RowCounts, layout: Layout
) -> int:
    """Bytes that a layer's backward pass needs beside what was kept: its recomputed part, and the MLP's gradients.

    The MLP comes first, when nothing of the layer is freed yet: gradients of the product, of gate and of up, while the
    product itself goes as soon as `down_proj` has its gradient.
    """
    recomputed = 0
    if layout.mode(layer) != "none":
        again = _whole_layer(config, trained, layer, row, layout)
        # what products gave is handed out and then freed
        recomputed = max(0, again - layer_activations(config, trained, layer, row, layout))
    down = trained(f"{_LAYERS}{layer}.mlp.down_proj.weight")
    temporary = row.tokens * config.intermediate_size * (3 - down)
    return recomputed + layout.width * (temporary + down * config.hidden_size * config.intermediate_size)


def patch_activations(config: NeoConfig, trained: Callable[[str], bool], row: RowCounts, layout: Layout) -> int:
    """Bytes that the patch embedding keeps: pixels, what GELU and Conv2 take in, the rotation, Conv2's matrix, and its
    output (torch's `index_copy` keeps it for its shape)."""
    c, patches, channels = layout.width, 4 * row.visual, config.patch_hidden_size
    first = any(trained(f"{_PATCHES}patch_embedding.{kind}") for kind in ("weight", "bias"))
    second = trained(f"{_PATCHES}dense_embedding.weight")
    kept = patches * (c * PATCH_CHANNELS + c * channels + FLOAT * channels) * first + patches * c * channels * second
    return kept + config.hidden_size * c * (4 * channels * first + row.visual * (first or second))


def shared_activations(config: NeoConfig, row: RowCounts, layout: Layout) -> int:
    """Bytes that all layers share: rotations, the mask, and on a GPU the row itself."""
    rotations = row.tokens * 2 * config.head_dim * FLOAT
    if layout.kernels == "triton":
        ids = 8 + 12 + 4 + 4 + 8 + 4 + 8  # a token's fields in PackedBatch
        return rotations + row.tokens * (ids + 2 * FLOAT) + row.visual * (8 + 4 * PATCH_CHANNELS) + row.supervised * 8
    group = config.num_attention_heads // config.num_key_value_heads
    masks = row.pairs + row.tokens * ROWS // 2
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
