"""Packed tokens a second that one core delivers at 16K, and the cores that keep one H100 fed. One markdown table.

    python benchmarks/loader.py [--packs 6]

Media of real size are made in a temporary folder: photographs of 1 MP (shown at no more than 1024 tokens), sets of four
of them, 720p clips of 10 s at 30 frames a second (64 frames are shown; a longer clip costs more to decode), texts of
about 400 tokens. They are read as a recipe reads them, through `NeoDataModule`: shards, plan, decoding, collation. The
last line is the mixture of NEO-ov's second stage, 2:4:1:1 in samples; those above take one kind of sample alone.

Checked: no row is a tombstone, and each row's patches are as many as its grids hold. Counted is the processor time of
this process and of the decoder of clips, reading one row at a time without workers; indexing is not counted.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
import tempfile
from itertools import islice
from pathlib import Path

import torch
from synthetic_media import clip, jpeg, processor_time, versions

from neo_lightning.data.datamodule import NeoDataModule
from neo_lightning.data.text.tokenizer import train_tokenizer
from neo_lightning.types import PackedBatch, PixelBudget, Stage, VideoBudget

CONTEXT = 16384
H100 = 30_000
"""Tokens a second that one H100 trains on (2B, second stage)."""

MIXTURE = {"text": 2.0, "image": 4.0, "multi_image": 1.0, "video": 1.0}
SAMPLES = {"text": 400, "image": 60, "multi_image": 20, "video": 8}
SENTENCE = "the left picture shows a red circle above two small squares while nothing moves in front of them"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packs", type=int, default=6, help="rows of 16K tokens that are read for each line")
    packs = parser.parse_args().packs
    torch.set_num_threads(1)
    print("| rows of 16K tokens | times one H100's appetite, a core | cores for one H100 | tokens/s/core | fill |")
    print("|---|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        write_sources(Path(folder))
        for name in (*MIXTURE, "2:4:1:1"):
            rate, fill = measure(Path(folder), MIXTURE if name == "2:4:1:1" else {name: 1.0}, packs)
            print(f"| {name} | {rate / H100:.2f} | {H100 / rate:.1f} | {rate:.0f} | {fill:.1%} |", flush=True)
    print(f"\n{versions()}")
    return 0


def measure(folder: Path, mixture: dict[str, float], packs: int) -> tuple[float, float]:
    """Tokens a processor second, and the share of the rows that is no padding."""
    stage = Stage(
        steps=packs + 1,
        context=CONTEXT,
        packs_per_step=1,
        mixture=mixture,
        lr=1e-4,
        image=PixelBudget(min_pixels=256 * 256, max_pixels=1024 * 1024),
        video=VideoBudget(fps=None, max_frames=64),
    )
    data = NeoDataModule(str(folder / "manifest.yaml"), {"bench": stage}, str(folder / "tokenizer"))
    data.setup()
    rows = (row for step in data.train_dataloader() for row in step)
    check(next(rows))  # starts the decoder, fills the caches
    start = processor_time()
    read = list(islice(rows, packs))
    spent = processor_time() - start
    for row in read:
        check(row)
    tokens = sum(row.info.tokens for row in read if row.info)
    return tokens / spent, tokens / (packs * CONTEXT)


def check(row: PackedBatch) -> None:
    assert row.info is not None
    if row.info.tombstones:
        sys.exit(f"a sample could not be read: {row.info.tombstones[0]}")
    if row.patches.shape[0] != int(row.grids.prod(-1).sum()):
        sys.exit("patches and grids do not agree")


def write_sources(folder: Path) -> None:
    """A shard for each kind of sample, the manifest and a tokenizer."""
    photos = [jpeg(1155, 866, seed) for seed in range(6)]
    film = clip(10)
    words = SENTENCE.split()
    text = " ".join(words[i * i % len(words)] for i in range(400))
    train_tokenizer([text, SENTENCE] * 20, 400, folder / "tokenizer")
    for name, count in SAMPLES.items():
        with tarfile.open(folder / f"{name}.tar", "w") as tar:
            for i in range(count):
                media = {
                    "text": {},
                    "image": {"jpg": photos[i % 6]},
                    "multi_image": {f"{k}.jpg": photos[(i + k) % 6] for k in range(4)},
                    "video": {"mp4": film},
                }[name]
                marks = "<video>\n" if name == "video" else "<image>\n" * len(media)
                turns = [{"from": "human", "value": f"{marks}What is shown?"}, {"from": "gpt", "value": f"number {i}"}]
                record = {"text": f"{i} {text}"} if name == "text" else {"conversations": turns}
                for extension, data in {"json": json.dumps(record).encode(), **media}.items():
                    info = tarfile.TarInfo(f"{i:06d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    sources = "".join(f"  {name}: {{modality: {name}, shards: {name}.tar}}\n" for name in SAMPLES)
    (folder / "manifest.yaml").write_text(f"sources:\n{sources}")


if __name__ == "__main__":
    raise SystemExit(main())
