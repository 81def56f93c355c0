"""Interval attention in Triton, the default on a GPU: operators that torch.compile and recomputation see whole.

Kept for the backward pass: q, k, v, o and one float per row and head. No step waits for the device. The kernels are
imported when they first run, so that this module needs no Triton. Head widths that are no power of two are padded with
zeros; float64 is refused (`reference` and `tiled` take it).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Bounds(NamedTuple):
    """Both sides of the mask, [T] int32 each."""

    start: Tensor
    limit: Tensor
    seen_from: Tensor
    """First row that sees the key."""
    seen_to: Tensor
    """One past the last row that sees it."""


class Blocks(NamedTuple):
    """How a kernel cuts its work."""

    rows: int
    keys: int
    warps: int
    stages: int


def blocks(kernel: str, d: int, itemsize: int, *, hopper: bool = True) -> Blocks:
    """Blocks of `forward`, `key_value` or `query` for width `d`: in half dtypes up to 256 wide everything fits into
    shared memory and nothing spills. float32 is for checks: right, but slow."""
    if itemsize == 4 or d > 256:
        return Blocks(32, 32, 4, 1)
    if hopper:
        chosen = {"forward": Blocks(128, 64, 8, 3), "key_value": Blocks(64, 64, 8, 2), "query": Blocks(128, 64, 8, 2)}
    else:  # two thirds of the shared memory, and products that keep their operands in registers
        chosen = {"forward": Blocks(128, 32, 8, 2), "key_value": Blocks(32, 64, 8, 1), "query": Blocks(64, 32, 8, 2)}
    return chosen[kernel]


def _blocks_for(kernel: str, q: Tensor) -> Blocks:
    hopper = not q.is_cuda or torch.cuda.get_device_capability(q.device)[0] >= 9
    return blocks(kernel, q.shape[-1], q.element_size(), hopper=hopper)


def prepare(start: Tensor, limit: Tensor) -> Bounds:
    """The mask seen from the keys as well; exact because neither bound ever decreases."""
    j = torch.arange(start.numel(), device=start.device, dtype=start.dtype)
    seen_from = torch.searchsorted(limit, j, right=True, out_int32=True)
    seen_to = torch.searchsorted(start, j, right=True, out_int32=True)
    return Bounds(start, limit, seen_from, seen_to)


def attend(q_THD: Tensor, k_TKD: Tensor, v_TKE: Tensor, bounds: Bounds, scale: float) -> Tensor:
    """See `interval_attention`. Raises TypeError for float64."""
    if q_THD.dtype == torch.float64:
        raise TypeError("the triton attention backend takes no float64; use backend 'tiled' or 'reference'")
    e = v_TKE.shape[-1]
    q, k, v = _padded(q_THD), _padded(k_TKD), _padded(v_TKE)
    return torch.ops.neo_lightning.interval_attention(q, k, v, *bounds, scale)[0][..., :e]


def _padded(x: Tensor) -> Tensor:
    """The last axis filled up with zeros to a power of two that a matrix unit takes."""
    width = max(16, 1 << (x.shape[-1] - 1).bit_length())
    return x if width == x.shape[-1] else F.pad(x, (0, width - x.shape[-1]))


def _descriptor(x: Tensor, rows: int) -> Any:
    """x [T, N, W] as [T, N * W], read in blocks [rows, W]; bulk copies want rows at multiples of 16 bytes."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    flat = x.flatten(1)  # a view also of a part of one product, whose tokens lie further apart
    if flat.stride(1) != 1 or (flat.stride(0) * flat.element_size()) % 16 or flat.data_ptr() % 16:
        flat = flat.clone(memory_format=torch.contiguous_format)
    return TensorDescriptor(flat, list(flat.shape), list(flat.stride()), [rows, x.shape[2]])


def _launch(kernel: Any, programs: tuple[int, int], cut: Blocks, q: Tensor, v: Tensor, *args: Any) -> None:
    with torch.cuda.device_of(q):
        kernel[programs](
            *args,
            GROUP=q.shape[1] // v.shape[1],
            D=q.shape[2],
            E=v.shape[2],
            ROWS=cut.rows,
            KEYS=cut.keys,
            PRECISION="tf32x3",
            num_warps=cut.warps,
            num_stages=cut.stages,
        )


_BOUNDS = "Tensor start, Tensor limit, Tensor seen_from, Tensor seen_to, float scale"


@torch.library.custom_op(
    "neo_lightning::interval_attention",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_BOUNDS}) -> (Tensor, Tensor)",
)
def _forward(
    q: Tensor, k: Tensor, v: Tensor, start: Tensor, limit: Tensor, seen_from: Tensor, seen_to: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """o [T, H, E] and the log2 of each row's sum of exponentials [H, T]."""
    from neo_lightning.ops.interval_attention import kernels

    t, heads = q.shape[:2]
    o, lse = v.new_empty(t, heads, v.shape[2]), q.new_empty(heads, t, dtype=torch.float32)
    cut = _blocks_for("forward", q)
    inputs = _descriptor(q, cut.rows), _descriptor(k, cut.keys), _descriptor(v, cut.keys)
    programs = -(-t // cut.rows), heads
    _launch(kernels.forward_kernel, programs, cut, q, v, *inputs, o, lse, start, limit, t, heads, scale)
    return o, lse


@_forward.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, *bounds: Any) -> tuple[Tensor, Tensor]:
    t, heads, _ = q.shape
    return v.new_empty(t, heads, v.shape[2]), q.new_empty(heads, t, dtype=torch.float32)


@torch.library.custom_op(
    "neo_lightning::interval_attention_backward",
    mutates_args=(),
    schema=f"(Tensor do, Tensor q, Tensor k, Tensor v, Tensor o, Tensor lse, {_BOUNDS}) -> (Tensor, Tensor, Tensor)",
)
def _backward(
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    start: Tensor,
    limit: Tensor,
    seen_from: Tensor,
    seen_to: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    from neo_lightning.ops.interval_attention import kernels

    t, heads = q.shape[:2]
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    do, delta = do.contiguous(), torch.empty_like(lse)
    with torch.cuda.device_of(q):
        kernels.delta_kernel[(-(-t // 64), heads)](o, do, delta, t, heads, E=v.shape[2], ROWS=64)

    def inputs(cut: Blocks) -> list[Any]:
        sizes = cut.rows, cut.keys, cut.keys, cut.rows
        return [*(_descriptor(x, n) for x, n in zip((q, k, v, do), sizes, strict=True)), lse, delta]

    cut = _blocks_for("key_value", q)
    programs = -(-t // cut.keys), k.shape[1]
    _launch(kernels.key_value_kernel, programs, cut, q, v, *inputs(cut), seen_from, seen_to, dk, dv, t, scale)
    cut = _blocks_for("query", q)
    programs = -(-t // cut.rows), heads
    _launch(kernels.query_kernel, programs, cut, q, v, *inputs(cut), start, limit, dq, t, heads, scale)
    return dq, dk, dv


@_backward.register_fake
def _(do: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))  # type: ignore[return-value]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    q, k, v, *bounds, o, lse = ctx.saved_tensors
    dq, dk, dv = torch.ops.neo_lightning.interval_attention_backward(grads[0], q, k, v, o, lse, *bounds, ctx.scale)
    return dq, dk, dv, None, None, None, None, None


_forward.register_autograd(_differentiate, setup_context=_keep)
