"""Our engine against transformers' generation of the same export, on random prompts, in one run.

    python benchmarks/serving.py [--size demo mid] [--rounds 5]

Goal: one stream at least 2 times, 8 streams at least 5 times transformers' tokens/s (sdpa; the better of its dynamic
and its static cache). Its 8 streams are counted as one batch of `generate`, all of whose requests must be there before
it begins, and one after the other, as a server on `generate` answers what comes. `8, mixed` are 16 requests of which up
to 8 are answered at a time, with answers of 8 to 64 tokens: transformers' batch ends with its longest answer. Sides
take turns, as other people's work comes and goes; medians. Both must say the same tokens, or nothing is reported.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from timing import place, print_table

from neo_lightning.answering import Answering, Engine, load, write_folder
from neo_lightning.data.text.tokenizer import train_tokenizer
from neo_lightning.harness.exported import Exported
from neo_lightning.model.batch import RunningBatch
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.neo import Neo
from neo_lightning.model.prompt import Prompt
from neo_lightning.model.sampling import Sampling

SIZES = {
    "demo": (128, 384, 6, 3, 4, 2, 32),
    "mid": (1024, 3072, 12, 4, 16, 8, 64),
}
"""Width, MLP width, layers, of these pre-buffer, heads, key heads, head width: recipes/demo.yaml, and 171 M weights."""
PROMPT, ANSWER = 60, 64
MIXED = [8, 64, 16, 12, 24, 8, 40, 10] * 2


def folder_of(size: str, out: Path) -> Path:
    tokenizer = train_tokenizer(["a few words to learn bytes from"] * 4, 300, out / "tokenizer")
    hidden, wide, layers, first, heads, kv_heads, head = SIZES[size]
    config = NeoConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=hidden,
        intermediate_size=wide,
        num_hidden_layers=layers,
        extra_num_layers=first,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        patch_hidden_size=128,
        image_token_id=tokenizer.context_id,
        image_start_token_id=tokenizer.img_start_id,
    )
    model = Neo(config)
    model.init_weights(0, std=0.08)
    return write_folder(model, out / size, out / "tokenizer", Answering())


def prompt_of(ids: torch.Tensor) -> Prompt:
    none = torch.zeros(len(ids), dtype=torch.bool)
    patches = torch.zeros(0, 768, dtype=torch.uint8)
    return Prompt(input_ids=ids, visual=none, grids=torch.zeros(0, 2, dtype=torch.int32), patches=patches)


def ours(engine: Engine, rows: torch.Tensor, most: list[int], at_once: int) -> tuple[list[list[int]], float]:
    """Tokens of each, and seconds to the first."""
    begun, first = time.perf_counter(), 0.0
    said: list[list[int]] = [[] for _ in most]
    batch, waiting = RunningBatch(engine.model), list(range(len(most)))
    numbers = {}
    while waiting or batch.running:
        while waiting and len(batch.running) < at_once:
            number = waiting.pop(0)
            sequence = batch.join(prompt_of(rows[number]), max_new_tokens=most[number], sampling=Sampling())
            assert sequence is not None
            numbers[sequence] = number
        for sequence, chosen in batch.step():
            first = first or time.perf_counter() - begun
            said[numbers[sequence]].append(chosen.token)
    return said, first


def theirs(model: Exported, rows: torch.Tensor, most: list[int], at_once: int, cache: str) -> list[list[int]]:
    said = []
    for at in range(0, len(most), at_once):
        part, longest = rows[at : at + at_once], max(most[at : at + at_once])
        options = {"cache_implementation": "static"} if cache == "static" else {}
        with torch.no_grad():
            found = model.model.generate(
                part,
                attention_mask=torch.ones_like(part),
                do_sample=False,
                max_new_tokens=longest,
                min_new_tokens=longest,
                **options,
            )
        said += found[:, part.shape[1] :].tolist()
    return [row[:n] for row, n in zip(said, most, strict=True)]


def measure(size: str, rounds: int, scratch: Path) -> None:
    folder = folder_of(size, scratch)
    engine, model = load(folder, device="cpu"), Exported(str(folder), device="cpu")
    drawn = torch.randint(0, 200, (len(MIXED), PROMPT), generator=torch.Generator().manual_seed(0))
    table = []
    for name, most, at_once in (("1", [ANSWER], 1), ("8", [ANSWER] * 8, 8), ("8, mixed", MIXED, 8)):
        rows = drawn[: len(most)]
        sides: dict[str, Callable[[], object]] = {
            "ours": lambda r=rows, m=most, a=at_once: ours(engine, r, m, a),
            **{
                cache: lambda r=rows, m=most, a=at_once, c=cache: theirs(model, r, m, a, c)
                for cache in ("dynamic", "static")
            },
            "one by one": lambda r=rows, m=most: [
                theirs(model, r[i : i + 1], m[i : i + 1], 1, "dynamic") for i in range(len(m))
            ],
        }
        said, first = ours(engine, rows, most, at_once)
        same = sum(a == b for a, b in zip(said, theirs(model, rows, most, at_once, "dynamic"), strict=True))
        if same < len(most) - 1:
            raise SystemExit(f"{size}, {name}: {len(most) - same} of {len(most)} answers differ")
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side, fn in sides.items():
                begun = time.perf_counter()
                fn()
                seconds[side].append(time.perf_counter() - begun)
        rates = {side: sum(most) / statistics.median(found) for side, found in seconds.items()}
        best = max(rates["dynamic"], rates["static"])
        columns = [f"{rates[side]:.0f}" for side in sides]
        gain = (f"{rates['ours'] / rate:.1f}x" for rate in (best, rates["one by one"]))
        table.append((name, *columns, *gain, f"{1e3 * first:.0f}", f"{same} of {len(most)}"))
    head = (
        "streams",
        "ours, tok/s",
        "transformers, a batch, dynamic",
        "static",
        "one by one",
        "ours / its best batch",
        "ours / one by one",
        "first token, ms",
        "same answers",
    )
    print_table(f"{size}, float32, on {place()}, load {os.getloadavg()[0]:.1f}", head, table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for size in arguments.size:
            measure(size, arguments.rounds, Path(scratch))


if __name__ == "__main__":
    main()
