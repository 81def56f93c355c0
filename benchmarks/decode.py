"""Cached attention of one new token against SDPA with grouped queries.

    python benchmarks/decode.py [--cache 4096] [--dtype bfloat16 float32]

Claim: with a cache of 4096 tokens, in bfloat16 on a CPU, at least 10 times as fast as SDPA with `enable_gqa`. Heads are
NEO-ov 2B's. `v padded` widens the values to the keys' width first, which lets SDPA take its fused kernel.
"""

from __future__ import annotations

import argparse
import statistics

import torch
import torch.nn.functional as F
from timing import DEVICE, milliseconds, must_agree, place, print_table
from torch import Tensor

from neo_lightning.ops.interval_attention import cached_attention, prepare_spans

HEADS, KV_HEADS, WIDTH, VALUE = 16, 8, 256, 128
SCALE = VALUE**-0.5


def measure(batch: int, cache: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    room = cache + 128  # a cache has places for the tokens to come
    q = draw(batch, HEADS, WIDTH)
    k, v = draw(batch, KV_HEADS, room, WIDTH)[:, :, :cache], draw(batch, KV_HEADS, room, VALUE)[:, :, :cache]
    lengths = [cache - 7 * i for i in range(batch)]
    visible = torch.arange(cache, device=DEVICE) < torch.tensor(lengths, device=DEVICE)[:, None]
    pool_k = torch.zeros(KV_HEADS, batch * room, WIDTH, device=DEVICE, dtype=dtype)
    pool_v = torch.zeros(KV_HEADS, VALUE, batch * room, device=DEVICE, dtype=dtype)
    for i in range(batch):
        pool_k[:, i * room : i * room + cache] = k[i]
        pool_v[:, :, i * room : i * room + cache] = v[i].transpose(1, 2)
    ranges = [(i * room, i * room + n) for i, n in enumerate(lengths)]
    spans = prepare_spans(ranges, HEADS * (WIDTH + VALUE), DEVICE)

    def sdpa(pad: int = 0) -> Tensor:
        mask, values = visible[:, None, None], F.pad(v, (0, pad)) if pad else v
        o = F.scaled_dot_product_attention(q[:, :, None], k, values, attn_mask=mask, scale=SCALE, enable_gqa=True)
        return o[:, :, 0, :VALUE]

    fns = {
        "cached_attention": lambda: cached_attention(q, pool_k, pool_v, spans, scale=SCALE),
        "SDPA, grouped queries": sdpa,
        "SDPA, grouped queries, v padded": lambda: sdpa(WIDTH - VALUE),
    }
    exact = cached_attention(q.float(), pool_k.float(), pool_v.float(), spans, scale=SCALE)
    times: dict[str, list[float]] = {name: [] for name in fns}
    with torch.no_grad():
        for name, fn in fns.items():
            must_agree(name, [fn()], [exact], 1e-5 if dtype == torch.float32 else 5e-2)
        for _ in range(5):  # in turns, as other people's work comes and goes
            for name, fn in fns.items():
                times[name].append(milliseconds(fn, repeats=1))
    medians = {name: statistics.median(found) for name, found in times.items()}
    own = medians["cached_attention"]
    rows = [(name, f"{time:.2f}", f"{time / own:.1f}x") for name, time in medians.items()]
    title = f"one token for each of {batch} sequence(s), {cache} cached, {dtype}, on {place()}"
    print_table(title, ("way", "ms", "time / ours"), rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cache", type=int, default=4096)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--dtype", nargs="+", default=["bfloat16"], help="bfloat16, float32")
    arguments = parser.parse_args()
    for dtype in arguments.dtype:
        for batch in arguments.batch:
            measure(batch, arguments.cache, getattr(torch, dtype))


if __name__ == "__main__":
    main()
