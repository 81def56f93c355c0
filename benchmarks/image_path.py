"""JPEG bytes -> patches of at most 1024 tokens: images a second on one core, ours and three peers. One markdown table.

    python benchmarks/image_path.py

- authors' path: what NEO's training kit does for each image, Pillow decode, Pillow bicubic, ToTensor, Normalize,
  patchify; written here from that description;
- webdataset + Pillow: the same, fed by webdataset from a shard with its `pilrgb` decoder;
- torchvision: decode_image, antialiased bicubic on uint8, then float, normalised and cut into patches;
- ours: `data.image`, uint8 patches (the model normalises them, on the GPU, as a part of its first matrix product).

A JPEG's entropy code must be read bit by bit at whatever size it is shown, so the ratio falls with the bytes a pixel.

Before anything is timed, each side's patches are taken back to pixels and compared with the authors'; the PSNR stands
in the table. Times are processor time, the best of several rounds in which the sides take turns.
"""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from synthetic_media import jpeg, versions
from torchvision.io import ImageReadMode
from torchvision.io import decode_image as torchvision_decode
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import normalize, resize, to_dtype, to_image

from neo_lightning.data.media.image import decode_image, image_facts, patchify, smart_resize
from neo_lightning.types import PixelBudget

SIZES = {"1 MP": (1155, 866, False), "4 MP": (2309, 1732, False), "4 MP, soft": (2309, 1732, True)}
BUDGET = PixelBudget(min_pixels=256 * 256, max_pixels=1024 * 32 * 32)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDS, PHOTOS = 6, 2
LEAST_PSNR = 28.0

Path_ = Callable[[], list[torch.Tensor]]


def main() -> int:
    torch.set_num_threads(1)
    print("| image | path | times the authors' | images/s/core | PSNR to the authors' pixels |")
    print("|---|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        for name, (width, height, soft) in SIZES.items():
            photos = [jpeg(width, height, seed, soft=soft) for seed in range(PHOTOS)]
            weight = sum(map(len, photos)) / (PHOTOS * width * height)
            sides = paths(photos, Path(folder) / f"{name}.tar")
            quality = {side: compare(sides["authors' path"](), path()) for side, path in sides.items()}
            if bad := [side for side, psnr in quality.items() if psnr < LEAST_PSNR]:
                sys.exit(f"{name}: not the same pixels as the authors' path: {', '.join(bad)}: {quality}")
            seconds = race(sides)
            for side, spent in seconds.items():
                ratio, rate = seconds["authors' path"] / spent, PHOTOS / spent
                print(f"| {name}, {weight:.2f} B/px | {side} | {ratio:.1f} | {rate:.0f} | {quality[side]:.0f} dB |")
    print(f"\n{versions(f'webdataset {webdataset.__version__}')}")
    return 0


def paths(photos: list[bytes], shard: Path) -> dict[str, Path_]:
    """The four ways from these photographs to patches."""
    with tarfile.open(shard, "w") as tar:
        for i, data in enumerate(photos):
            info = tarfile.TarInfo(f"{i:06d}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    facts = [image_facts(data) for data in photos]  # the index has them
    sizes = [smart_resize(f.height, f.width, BUDGET) for f in facts]

    def from_webdataset() -> list[torch.Tensor]:
        samples = webdataset.WebDataset(str(shard), shardshuffle=False).decode("pilrgb").to_tuple("jpg")
        return [authors(image) for (image,) in samples]

    return {
        "authors' path": lambda: [authors(Image.open(io.BytesIO(data)).convert("RGB")) for data in photos],
        "webdataset + Pillow": from_webdataset,
        "torchvision": lambda: [with_torchvision(data) for data in photos],
        "ours": lambda: [patchify(decode_image(*item)) for item in zip(photos, facts, sizes, strict=True)],
    }


def authors(image: Image.Image) -> torch.Tensor:
    """[P, 768] float32, normalised."""
    height, width = smart_resize(image.height, image.width, BUDGET)
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    pixels = normalize(to_dtype(to_image(small), torch.float32, scale=True), list(MEAN), list(STD))
    return cut(pixels)


def with_torchvision(data: bytes) -> torch.Tensor:
    """[P, 768] float32, normalised."""
    pixels = torchvision_decode(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    size = list(smart_resize(pixels.shape[1], pixels.shape[2], BUDGET))
    small = resize(pixels, size, interpolation=InterpolationMode.BICUBIC, antialias=True)
    return cut(normalize(to_dtype(small, torch.float32, scale=True), list(MEAN), list(STD)))


def cut(pixels: torch.Tensor) -> torch.Tensor:
    """[3, H, W] -> [P, 768]."""
    _, height, width = pixels.shape
    grid = pixels.reshape(3, height // 16, 16, width // 16, 16).permute(1, 3, 0, 2, 4)
    return grid.reshape(-1, 768)


def compare(theirs: list[torch.Tensor], ours: list[torch.Tensor]) -> float:
    """PSNR in dB of the pixels, the worst photograph's."""
    return min(psnr(levels(a), levels(b)) for a, b in zip(theirs, ours, strict=True))


def levels(patches: torch.Tensor) -> np.ndarray:
    """Patches as levels 0..255, normalised or not."""
    if patches.dtype == torch.uint8:
        return patches.numpy().astype(float)
    mean, std = torch.tensor(MEAN).repeat_interleave(256), torch.tensor(STD).repeat_interleave(256)
    return ((patches * std + mean) * 255).round().numpy().astype(float)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.mean((a - b) ** 2), 255**2 * 1e-10))


def race(sides: dict[str, Path_]) -> dict[str, float]:
    """Processor seconds of each side for all photographs: the best of the rounds."""
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(ROUNDS):
        for side, path in sides.items():
            start = time.process_time()
            path()
            best[side] = min(best[side], time.process_time() - start)
    return best


if __name__ == "__main__":
    raise SystemExit(main())
