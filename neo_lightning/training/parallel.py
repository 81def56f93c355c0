"""Everything that makes the model run on more than one device, or faster, applied from outside of it.

In: a model on the meta device. Out: the same model with activation checkpointing, compiled blocks and FSDP2 sharding;
parameter names do not change. The order matters: recomputation inside sharding, so that a block is gathered once for
its forward and once for its backward, recomputation included. Where several groups of ranks hold a copy each, FSDP2
sums a block's gradients over the copies while the backward pass is at the next block.

Mixed precision belongs to the sharding: parameters stay float32 (the optimiser's master weights), each block sees a
bfloat16 copy while it runs, gradients are reduced in float32. With one rank in float32 there is nothing to shard, and
the model is left as it is.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from neo_lightning.model.layers import PackedRow, Row
from neo_lightning.model.low_rank import LowRank
from neo_lightning.training.sequence import SharedRow

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule

ActivationCheckpointing = Literal["none", "selective", "full"]
"""What a layer's backward pass computes again: nothing; norms, rotations and gate, while products and the attention
kernel's output are kept; or everything."""

_PRODUCTS = {torch.ops.aten.mm.default: 1, torch.ops.aten.addmm.default: 2, torch.ops.aten._scaled_mm_v2.default: 1}
"""Selective recomputation keeps the outputs of these: projections cost the most to repeat per byte. And which of their
arguments is the right matrix."""

_KERNEL = "neo_lightning::interval_attention"
"""The attention kernel's output is kept as well: repeating it costs more than a projection. The package's other kernels
(norms, rotations, gate) only move memory, and are repeated."""

GRAPHS = 128
"""Of the layers, at most: one for each row length, with and without gradients, and each choice of what is trained in a
layer. The compiler's own limit is 8, behind which it runs what is left uncompiled and goes on."""


def keep_products(
    unkept: tuple[int, int], narrow: frozenset[int], context: Any, operator: Any, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    """The policy of `selective`: products are kept, but for those with a matrix of the shape `unkept`, and those of
    inner width in `narrow`: low-rank terms cost little to repeat, and the product that they go into is kept.

    By shape, as a compiled graph knows no modules. Another projection of that shape would be repeated, no more.
    """
    if operator in _PRODUCTS:
        right = tuple(args[_PRODUCTS[operator]].shape)
        keep = right != unkept and right[0] not in narrow
    else:
        keep = getattr(operator, "name", str)() == _KERNEL
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


@functools.cache  # one object for all layers, as a compiled graph holds for one
def _contexts(unkept: tuple[int, int], narrow: frozenset[int]) -> Callable[[], Any]:
    return functools.partial(create_selective_checkpoint_contexts, functools.partial(keep_products, unkept, narrow))


def checkpoint_activations(block: nn.Module, mode: ActivationCheckpointing) -> None:
    """Let the backward of a block repeat its forward (`full`), or what is cheap of it (`selective`).

    Neither repeats `down_proj`: no operation of the backward wants its output, so `selective` does not keep it either,
    and recomputation ends with the last tensor that is wanted. The output of `o_proj` is wanted, for the sum that the
    second norm takes in. In 8 bits and without compilation `down_proj` is repeated, as what it keeps is known after it.
    """
    if mode == "none":
        return
    terms = [module for module in block.modules() if isinstance(module, LowRank)]
    # dropout has to draw again what it drew
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": any(term.dropout for term in terms)}
    if mode == "selective":
        narrow = frozenset(term.A.shape[0] * n for term in terms for n in range(1, 6))  # up to 5 lie side by side
        down = cast(nn.Linear, block.get_submodule("mlp.down_proj"))
        options["context_fn"] = _contexts((down.in_features, down.out_features), narrow)
    # an attribute of the instance: no wrapper module, so no parameter changes its name
    block.forward = _recomputed(block.forward, options)  # type: ignore[method-assign]


def _recomputed(forward: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return checkpoint(forward, *args, **options)

    return run


def compile_layer(block: nn.Module) -> None:
    """Let a layer run compiled on the rows of training and validation: one graph for each length of theirs.

    By itself the compiler would take the second length as a sign that all may come, and go on with kernels for any. All
    do come where answers are generated: those rows run as they are.
    """
    forward = block.forward
    compiled = torch.compile(forward, dynamic=False)

    def run(x: Tensor, row: Row) -> Tensor:
        return (compiled if type(row) in (PackedRow, SharedRow) else forward)(x, row)

    block.forward = run  # type: ignore[method-assign]


def shard(model: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, *, bf16: bool) -> None:
    """FSDP2: each block is gathered alone, the rest (embedding, head) with the root.

    Args:
        model: to be sharded in place.
        blocks: of it.
        mesh: [shard], or [replica, shard] where there are copies.
        bf16: compute in bfloat16.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard  # a second, which one CPU does without

    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,  # rotary angles stay float32; hidden states already have the parameters' type
    )
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)  # the root as well: clipping must not meet two kinds of tensors


def is_sharded(model: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether `shard` was here: nothing is an FSDPModule before somebody has imported the class."""
    module = sys.modules.get("torch.distributed.fsdp")
    return module is not None and isinstance(model, module.FSDPModule)


def sharded_parts(model: nn.Module) -> list[FSDPModule]:
    """Of which each is gathered by itself; the root, which has what is in no layer, first."""
    return [module for module in model.modules() if is_sharded(module)]


def stages_kept(wanted: bool | Sequence[str], stages: Iterable[str]) -> frozenset[str]:
    """Names of the stages in which layers stay gathered, from what `NeoStrategy(keep_gathered=...)` says.

    Raises:
        ValueError: there is no stage of that name.
    """
    known = frozenset(stages)
    found = (known if wanted else frozenset()) if isinstance(wanted, bool) else frozenset(wanted)
    if unknown := found - known:
        raise ValueError(f"keep_gathered: there is no stage {min(unknown)!r}; there are: {', '.join(stages)}, or true")
    return found


def keep_gathered(model: nn.Module, wanted: bool) -> None:
    """Whether layers stay gathered from their forward to their backward pass; the root always does."""
    for part in sharded_parts(model):
        part.set_reshard_after_forward(not wanted and part is not model, recurse=False)


def reshard(model: nn.Module) -> None:
    """Put each rank's own part of the parameters in their place.

    After a forward without a backward (validation, samples) gathered copies lie there.
    """
    for part in sharded_parts(model):
        part.reshard()


def sum_over_copies(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass sums gradients over copies of the model; without copies it makes no difference.

    What earlier passes left unsummed is added first, so a step's micro-batches take one sum, with the last of them.
    """
    if is_sharded(model):
        model.set_requires_all_reduce(wanted)


def parallelise(
    model: nn.Module,
    blocks: Iterable[nn.Module],
    *,
    mesh: DeviceMesh | None,
    bf16: bool,
    activation_checkpointing: ActivationCheckpointing = "none",
    recomputed_layers: int = 0,
    compile_blocks: bool = False,
) -> None:
    """Apply recomputation, compilation and sharding to a model in place.

    Args:
        model: on the meta device (or materialised).
        blocks: its layers, each of which is gathered by itself.
        mesh: [shard] or [replica, shard], see `shard`; None leaves the model whole.
        bf16: compute in bfloat16 with float32 master weights. Needs a mesh, of one rank if need be.
        activation_checkpointing: what the backward repeats.
        recomputed_layers: of so many, the first, everything is repeated (`full`), whatever the mode of the others.
        compile_blocks: compile each block, once for each row length; see `compile_layer`. With selective
            recomputation this needs an attention backend that compiles, else the blocks run as if not compiled.
    """
    blocks = list(blocks)
    if not 0 <= recomputed_layers <= len(blocks):
        raise ValueError(f"recomputed_layers is {recomputed_layers}: the model has {len(blocks)} layers")
    if compile_blocks:
        # a layer's number would otherwise be a constant of its graph: one graph per layer
        torch._dynamo.config.allow_unspec_int_on_nn_module = True
        torch._dynamo.config.recompile_limit = max(GRAPHS, torch._dynamo.config.recompile_limit)
    for i, block in enumerate(blocks):
        mode = "full" if i < recomputed_layers else activation_checkpointing
        if compile_blocks and mode == "full":  # inside what is repeated: a graph may break at an uncompiled kernel
            compile_layer(block)
        checkpoint_activations(block, mode)
        if compile_blocks and mode != "full":  # around it: selective recomputation has to see single operations
            compile_layer(block)
    if mesh is not None and (mesh.size() > 1 or bf16):
        shard(model, blocks, mesh, bf16=bf16)
    elif bf16:
        raise ValueError("bfloat16 compute with float32 master weights needs `NeoStrategy`, also on one device")
