"""What README.md's commands find where its reader has things of their own, and which commands are not run, and why."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import Tokenizer as Backend

from neo_lightning.data.text.tokenizer import SPECIAL_TOKENS

ROOT = Path(__file__).resolve().parents[2]
CLONE = (
    "README.md",
    "Makefile",
    "pyproject.toml",
    "setup.py",
    "neo_lightning",
    "recipes",
    "data_manifests",
    "tests/real",
)

NOT_RUN = {
    r"make test\b|python -m pytest": "this very suite",
    r"pip install": "packages come from an index; the installed ones are used",
    r"python benchmarks/demo_seeds\.py": "trains the demo three times at full length",
    r"lightning sweep depth": "five runs; tests/cli/test_sweep.py runs smaller ones, tests/recipes builds its arms",
}
"""Pattern of a command -> why it is not run."""

ELSEWHERE = {"/models/": "models/"}
"""Text of a command -> what stands for it."""

PHOTOS = "photos"
RECORDS = [
    {
        "id": str(n),
        "image": f"{n}.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is this?"},
            {"from": "gpt", "value": f"Cat number {n}."},
        ],
    }
    for n in range(6)
]
CHANGES = """\
stages: {sft: {steps: 2, context: 512, packs_per_step: 1, image: {min_pixels: 4096, max_pixels: 16384}}}
model: {compile_blocks: false, recomputed_layers: 0}
trainer: {accelerator: cpu, precision: 32-true}
"""
CALLS = [
    {"dialog": [{"speaker": "customer", "said": "Hello?"}, {"speaker": "agent", "said": f"Line {n}, hello."}]}
    for n in range(4)
]


def clone(folder: Path) -> None:
    """A fresh clone, whose virtual environment holds this Python and the program with less to do; a reader's files."""
    for name in CLONE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    ours = f'exec "{sys.executable}" "{ROOT}/tests/readme/program.py" "$@"'
    for name, line in {"neo-lightning": ours, "lightning": ours, "python": f'exec "{sys.executable}" "$@"'}.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    (folder / ".venv" / ".installed").touch()  # newer than pyproject.toml: make installs nothing
    picture(folder / "cat.jpg", 0)
    picture(folder / "photo.png", 1)
    (folder / PHOTOS).mkdir()
    for n in range(len(RECORDS)):
        picture(folder / PHOTOS / f"{n}.jpg", n)
    (folder / "instructions.json").write_text(json.dumps(RECORDS), encoding="utf-8")
    (folder / "my_changes.yaml").write_text(CHANGES, encoding="utf-8")
    (folder / "calls.jsonl").write_text("".join(json.dumps(call) + "\n" for call in CALLS), encoding="utf-8")
    qwen3_tokenizer(folder / "models" / "Qwen3-1.7B-Base")
    qwen3(folder / "models" / "Qwen3-4B-Base")


def environment(folder: Path) -> dict[str, str]:
    """What is set for a command: the clone's programs come first, and the folders that the recipes' headers ask for."""
    path = f"{folder}/.venv/bin{os.pathsep}{os.environ['PATH']}"
    mine = {"NEO_DATA": str(folder / "shards"), "NEO_MODEL": str(folder / "runs/demo-0/export")}
    quiet = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    return {**mine, **quiet, "PATH": path, "PYTHONPATH": str(folder)}


def after_the_demo(folder: Path) -> None:
    """What else a reader has by now: clips in shards, a released model, a large run to export."""
    demo = folder / "runs" / "demo-0"
    if (folder / "clips").exists() or not (demo / "export").exists():
        return
    shutil.copytree(demo / "export", folder / "models" / "neo-ov-2b")
    shutil.copytree(demo, folder / "runs" / "neo_ov_2b", ignore=shutil.ignore_patterns("scenes"))
    (folder / "clips").mkdir()
    for shard in (demo / "scenes" / "train").glob("video-*.tar"):
        shutil.copy(shard, folder / "clips")
        with tarfile.open(shard) as members:
            clip = next(member for member in members if member.name.endswith(".mp4"))
            (folder / "clip.mp4").write_bytes(members.extractfile(clip).read())  # type: ignore[union-attr]


def picture(path: Path, seed: int) -> None:
    """A picture of 96 x 80 pixels in soft colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(path)


def qwen3_tokenizer(folder: Path) -> None:
    """A tokenizer as Qwen3's, without NEO's own tokens: one of the bytes."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    letters = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Backend(models.BPE(vocab=letters, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_TOKENS if token.startswith("<|")])
    folder.mkdir(parents=True)
    backend.save(str(folder / "tokenizer.json"))


def qwen3(folder: Path) -> None:
    """A Qwen3 of a few random weights."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    config = Qwen3Config(vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, **heads)
    Qwen3ForCausalLM(config).save_pretrained(folder)
