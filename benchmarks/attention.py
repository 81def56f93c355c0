"""Interval attention against dense-mask SDPA, FlexAttention and FlashAttention on packed documents with images.

    python benchmarks/attention.py [--tokens 2048 4096] [--dtype float32 bfloat16]

Claim: on a CPU, forward and backward are at least 2.5 times as fast as SDPA with a dense mask; on an H100, at least 1.5
times as fast as compiled FlexAttention. Every backend is first checked against the tiled one, output and gradients.
Heads are NEO-ov 2B's: 16 query heads 256 wide, 8 key heads, values 128 wide; a CPU gets a quarter of them. FLOPs count
visible pairs only. `causal, 256 wide` is FlashAttention on one causal document, a speed to compare FLOP rates with, not
the same computation.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timing import DEVICE, gradients, milliseconds, must_agree, place, print_table
from torch import Tensor

from neo_lightning.ops.interval_attention import flex, interval_attention, prepare_intervals

HEADS, KV_HEADS = (16, 8) if DEVICE.type == "cuda" else (4, 2)
WIDTH, VALUE = 256, 128
SCALE = VALUE**-0.5
REPEATS = 5 if DEVICE.type == "cuda" else 3
TUNED = {
    "fwd_BLOCK_M": 128,
    "fwd_BLOCK_N": 64,
    "fwd_num_warps": 8,
    "fwd_num_stages": 3,
    "bwd_BLOCK_M1": 32,
    "bwd_BLOCK_N1": 64,
    "bwd_BLOCK_M2": 64,
    "bwd_BLOCK_N2": 32,
    "bwd_num_warps": 8,
    "bwd_num_stages": 2,
}
"""FlexAttention's options that fit this width on an H100 without spilling."""


def packed_bounds(tokens: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Documents of 700 to 1500 tokens in which text (10 to 120 tokens) and images (64 to 400) take turns."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    start: list[int] = []
    limit: list[int] = []
    while len(start) < tokens:
        first, end = len(start), min(tokens, len(start) + draw(700, 1500))
        while len(limit) < end:
            text = min(end, len(limit) + draw(10, 120))
            limit += range(len(limit) + 1, text + 1)
            image = min(end, text + draw(64, 400))
            limit += [image] * (image - text)
        start += [first] * (end - first)
    return torch.tensor(start, dtype=torch.int32, device=DEVICE), torch.tensor(limit, dtype=torch.int32, device=DEVICE)


def peers(start: Tensor, limit: Tensor) -> dict[str, Callable[..., Tensor]]:
    """Name -> function of (q, k, v); ours first."""

    def own(backend: str) -> Callable[..., Tensor]:
        prepared = prepare_intervals(start, limit, backend)
        options: dict[str, Any] = {"scale": SCALE, "backend": backend, "prepared": prepared}
        return lambda q, k, v: interval_attention(q, k, v, start, limit, **options)

    mask = prepare_intervals(start, limit, "reference")

    def dense(q: Tensor, k: Tensor, v: Tensor, pad: int = 0) -> Tensor:
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, F.pad(v, (0, pad))))
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=SCALE, enable_gqa=True)
        return o[0, ..., :VALUE].transpose(0, 1)

    sdpa = {"SDPA, dense mask": dense, "SDPA, dense mask, v padded": lambda *x: dense(*x, pad=WIDTH - VALUE)}
    if DEVICE.type == "cpu":
        return {"tiled": own("tiled"), **sdpa}
    block_mask = flex.prepare(start, limit)
    found = {"triton": own("triton"), "FlexAttention": own("flex")}
    found["FlexAttention, tuned"] = lambda q, k, v: flex.attend(q, k, v, block_mask, SCALE, TUNED)
    if importlib.util.find_spec("flash_attn"):
        found["flash-attn, two calls"] = own("flash")
    return found | sdpa


def measure(tokens: int, dtype: torch.dtype) -> None:
    start, limit = packed_bounds(tokens)
    generator = torch.Generator().manual_seed(1)
    shapes = (HEADS, WIDTH), (KV_HEADS, WIDTH), (KV_HEADS, VALUE), (HEADS, VALUE)
    q, k, v, do = (torch.randn(tokens, *shape, generator=generator).to(DEVICE, dtype) for shape in shapes)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    expected = gradients(
        lambda q, k, v: interval_attention(q, k, v, start, limit, scale=SCALE, backend="tiled"), inputs, do
    )
    pairs = int((limit - start).sum()) * HEADS
    rows, own = [], None
    for name, fn in peers(start, limit).items():
        try:
            must_agree(name, gradients(fn, inputs, do), expected, 1e-4 if dtype == torch.float32 else 3e-2)
            with torch.no_grad():
                forward = milliseconds(lambda fn=fn: fn(*inputs), repeats=REPEATS)
            both = milliseconds(lambda fn=fn: gradients(fn, inputs, do), repeats=REPEATS)
        except torch.OutOfMemoryError:
            rows.append((name, "out of memory", "", "", ""))
            continue
        own = own or both
        rate = 2 * pairs * (4 * WIDTH + 3 * VALUE) / both / 1e9
        rows.append((name, f"{forward:.1f}", f"{both:.1f}", f"{rate:.3g}", f"{both / own:.2f}x"))
    if DEVICE.type == "cuda":
        rows.append(causal(tokens, dtype))
    title = f"{tokens} packed tokens, {dtype}, {pairs / HEADS / tokens**2:.0%} of all pairs visible, on {place()}"
    print_table(title, ("backend", "forward ms", "forward + backward ms", "TFLOP/s", "time / ours"), rows)


def causal(tokens: int, dtype: torch.dtype) -> tuple[str, ...]:
    """FlashAttention as torch has it, on one causal document with heads 256 wide."""
    q, k, v = (torch.randn(1, HEADS, tokens, WIDTH, device=DEVICE, dtype=dtype, requires_grad=True) for _ in range(3))
    do = torch.randn_like(q)

    def fn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    with torch.no_grad():
        forward = milliseconds(lambda: fn(q, k, v))
    both = milliseconds(lambda: gradients(fn, (q, k, v), do))
    rate = 2 * tokens * (tokens + 1) // 2 * HEADS * 7 * WIDTH / both / 1e9
    return "causal, 256 wide (torch's FlashAttention)", f"{forward:.1f}", f"{both:.1f}", f"{rate:.3g}", ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    gpu = DEVICE.type == "cuda"
    parser.add_argument("--tokens", type=int, nargs="+", default=[16384, 36864] if gpu else [2048, 4096])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"] if gpu else ["float32"], help="float32, bfloat16")
    arguments = parser.parse_args()
    for dtype in arguments.dtype:
        for tokens in arguments.tokens:
            measure(tokens, getattr(torch, dtype))


if __name__ == "__main__":
    main()
