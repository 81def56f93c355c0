"""Kernels on tensors of more than 2^31 elements: the last rows are as right as the first, and twice the same bits.

    python benchmarks/gpu/far.py [--small]

An offset that is computed in 32 bits would wrap around and read, or write, elsewhere. Documents are short, so the work
is small; the memory is that of the tensors, about 25 GB. The first and last rows of outputs and input gradients are
compared with the definition in float32 on those rows alone. Two passes must agree in every bit: nothing is added in an
order that chance decides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator

import torch
from timing import DEVICE, place, print_table
from torch import Tensor

from neo_lightning.ops.interval_attention import interval_attention
from neo_lightning.ops.qk_norm_rope import qk_norm_rope, rope_table
from neo_lightning.ops.rms_norm import rms_norm
from neo_lightning.ops.swiglu import swiglu

FAR = 2**31
DOCUMENT = 128
BOUND = 3e-2
"""Relative to the largest value: bfloat16 rounds to 8 bits (a CPU computes in float32, and is within it too)."""
DTYPE = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32

Op = Callable[[str, slice], Callable[..., Tensor]]
"""(backend, rows) -> function of the inputs' rows."""


def cases(small: bool) -> Iterator[tuple[str, int, list[tuple[int, ...]], Op]]:
    """Name, rows, shapes of the inputs behind the rows, the operation on some of the rows."""
    heads, kv, d = (2, 1, 16) if small else (16, 8, 128)

    def rows(width: int) -> int:
        return 2 * DOCUMENT if small else (FAR // width // DOCUMENT + 8) * DOCUMENT

    tokens = rows(heads * 2 * d)

    def attention(backend: str, part: slice) -> Callable[..., Tensor]:
        i = torch.arange(tokens, device=DEVICE, dtype=torch.int32)[part]
        i = i - i[0]
        start = i // DOCUMENT * DOCUMENT
        return lambda q, k, v: interval_attention(q, k, v, start, i + 1, scale=d**-0.5, backend=backend)

    yield "attention", tokens, [(heads, 2 * d), (kv, 2 * d), (kv, d)], attention

    positions = torch.arange(tokens, device=DEVICE)[:, None].expand(-1, 3) % 1000
    weights = tuple(torch.linspace(0.5, 1.5, n, device=DEVICE, dtype=DTYPE) for n in (d, d // 2, d // 2))

    def rotation(backend: str, part: slice) -> Callable[..., Tensor]:
        rope = rope_table(positions[part], d, 1e6, 1e4)
        return lambda x: qk_norm_rope(x, weights, rope, 1e-6, backend=backend)

    yield "qk_norm_rope", tokens, [(heads, 2 * d)], rotation
    width = 64 if small else 4096
    weight = torch.linspace(0.5, 1.5, width, device=DEVICE, dtype=DTYPE)
    yield "rms_norm", rows(width), [(width,)], lambda backend, _: lambda x: rms_norm(x, weight, 1e-6, backend=backend)
    yield "swiglu", rows(width), [(2 * width,)], lambda backend, _: lambda x: swiglu(x, backend=backend)


def results(fn: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    """Output and gradients of the inputs, that of the output being the output itself."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out = fn(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, out.detach())]


def measure(name: str, rows: int, shapes: list[tuple[int, ...]], op: Op) -> tuple[tuple[str, ...], bool]:
    """A line of the table."""
    torch.manual_seed(0)
    inputs = [
        torch.randn(DOCUMENT, *shape, device=DEVICE).to(DTYPE).repeat(rows // DOCUMENT, *[1] * len(shape))
        for shape in shapes
    ]
    inputs = [
        x.mul_(torch.linspace(0.5, 1.5, rows, device=DEVICE, dtype=DTYPE).view(-1, *[1] * (x.ndim - 1))) for x in inputs
    ]
    whole = slice(0, rows)
    found, again = (results(op("triton", whole), inputs) for _ in range(2))
    same = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
    del again
    worst = {}
    for end, part in (("first", slice(0, DOCUMENT)), ("last", slice(rows - DOCUMENT, rows))):
        exact = results(op("reference", part), [x[part].float() for x in inputs])
        worst[end] = max(
            float((a[part].float() - b).abs().max() / b.abs().max()) for a, b in zip(found, exact, strict=True)
        )
    elements = max(x.numel() for x in inputs)
    good = same and all(error <= BOUND for error in worst.values())
    texts = (
        f"{elements / FAR:.2f} x 2^31",
        *(f"{worst[end]:.1e}" for end in ("first", "last")),
        "yes" if same else "NO",
    )
    return (name, *texts, "yes" if good else "NO"), good


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few rows, to try this program")
    small = parser.parse_args().small
    lines, goods = zip(*(measure(*case) for case in cases(small)), strict=True)
    head = ("kernel", "elements", "error, first rows", "error, last rows", "same bits twice", "as it must be")
    print_table(f"far offsets, {DTYPE}, on {place()}", head, lines)
    return int(not all(goods))


if __name__ == "__main__":
    sys.exit(main())
