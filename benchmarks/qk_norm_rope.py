"""Per-axis QK norm and rotation against the definition run by autograd, and against the same compiled.

    python benchmarks/qk_norm_rope.py [--tokens 2048]

Claim: one pass from the projections to queries and keys. GB/s counts what has to be moved: each projection read and
each result written once forward, and once more backward with the gradients. Heads are NEO-ov 2B's (16 + 8, 128 wide)
on a GPU, where the definition is compiled too, and the demo's (4 + 2, 32 wide) on a CPU.
"""

from __future__ import annotations

import argparse

import torch
from timing import DEVICE, gradients, milliseconds, must_agree, place, print_table
from torch import Tensor

from neo_lightning.ops.qk_norm_rope import qk_norm_rope, rope_table


def main() -> None:
    gpu = DEVICE.type == "cuda"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=32768 if gpu else 512)
    tokens = parser.parse_args().tokens
    heads, d, dtype = ((16, 8), 128, torch.bfloat16) if gpu else ((4, 2), 32, torch.float32)
    generator = torch.Generator().manual_seed(0)
    positions = torch.randint(0, 64, (tokens, 3), generator=generator).to(DEVICE)
    rope = rope_table(positions, d, 1e6, 1e4)
    inputs = [torch.randn(tokens, n, 2 * d, generator=generator).to(DEVICE, dtype).requires_grad_() for n in heads]
    weights = [
        (1 + 0.1 * torch.randn(n, generator=generator)).to(DEVICE, dtype).requires_grad_() for n in (d, d // 2, d // 2)
    ]
    do = torch.randn(tokens, sum(heads), 2 * d, generator=generator).to(DEVICE, dtype)

    def both(backend: str, fn: object = None) -> object:
        call = fn or qk_norm_rope

        def run(q: Tensor, k: Tensor, *w: Tensor) -> Tensor:
            return torch.cat([call(x, w, rope, 1e-6, backend=backend) for x in (q, k)], 1)

        return run

    fns = {"ours": both("auto"), "definition, eager": both("reference")}
    if gpu:
        fns["definition, compiled"] = both("reference", torch.compile(qk_norm_rope))
    expected = gradients(fns["definition, eager"], [*inputs, *weights], do)
    moved = tokens * sum(heads) * 2 * d * inputs[0].element_size() * (2 + 3)
    rows, own = [], None
    for name, fn in fns.items():
        must_agree(name, gradients(fn, [*inputs, *weights], do), expected, 2e-5 if dtype == torch.float32 else 3e-2)
        time = milliseconds(lambda fn=fn: gradients(fn, [*inputs, *weights], do), repeats=9)
        own = own or time
        rows.append((name, f"{time:.3f}", f"{moved / time / 1e6:.1f}", f"{time / own:.2f}x"))
    title = f"QK norm and rotation, forward + backward (with one concatenation), {tokens} tokens, {dtype}, on {place()}"
    print_table(title, ("way", "ms", "GB/s", "time / ours"), rows)


if __name__ == "__main__":
    main()
