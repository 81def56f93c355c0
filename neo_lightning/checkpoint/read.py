"""Folders of safetensors -> tensors by name. Nothing in a folder is executed or unpickled.

A folder holds `model.safetensors`, or shards that `model.safetensors.index.json` names. Both come from outside, so file
names may not leave the folder, and the index has to agree with what the files hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from neo_lightning.hub import resolve_folder

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def model_folder(source: str | Path) -> Path:
    """The folder of a model (NEO or Qwen3) with its `config.json`: a local one, or `hf://owner/name`.

    Raises:
        ValueError: there is none; says what makes one.
    """
    folder = resolve_folder(
        source,
        f"a model is a folder with config.json and {SINGLE}: `neo-lightning model init --qwen3 QWEN3 ...` makes one, "
        "and `neo-lightning model export --run RUN ...` one from a run",
    )
    if not (folder / "config.json").is_file():
        if (folder / "export" / "config.json").is_file():
            raise ValueError(f"{folder} is a run's folder; its model is {folder / 'export'}")
        if (folder / "checkpoints").is_dir():
            raise ValueError(
                f"{folder} is a run's folder, not yet exported: "
                f"`neo-lightning model export --run {folder} --out {folder / 'export'}`"
            )
    return folder


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ValueError: the file is missing or is not a JSON object; names it.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing; a model folder needs it")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file}: expected a JSON object, found {type(value).__name__}")
    return value


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder by its stored name, in its stored dtype, read when it is used (memory-mapped).

    Raises:
        ValueError: no safetensors, an index that leaves the folder or disagrees with the files, or a damaged file.
    """
    if (folder / INDEX).exists():
        listed = _read_index(folder)
        files = [folder / name for name in sorted(set(listed.values()))]
    elif (folder / SINGLE).exists():
        listed, files = None, [folder / SINGLE]
    else:
        raise ValueError(_nothing_to_read(folder))
    tensors: dict[str, Tensor] = {}
    for file in files:
        found = read_file(file)
        twice = sorted(set(found) & set(tensors))
        if twice:
            raise ValueError(f"{file}: {twice[0]} is in another shard as well ({len(twice)} such tensors)")
        tensors.update(found)
        if listed is not None:
            said = {name for name, shard in listed.items() if shard == file.name}
            if said != set(found):
                missing, extra = sorted(said - set(found)), sorted(set(found) - said)
                only = f"in the index only: {missing}, in the file only: {extra}"
                raise ValueError(f"{folder / INDEX} and {file.name} disagree; {only}")
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size], where: str) -> None:
    """Refuse tensors that are not exactly the expected ones.

    Raises:
        ValueError: lists every missing, unexpected and wrongly shaped tensor, behind `where`.
    """
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    misshaped = [
        f"{name} is {list(tensors[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if missing or extra or misshaped:
        lines = [f"{where}: {len(missing)} missing, {len(extra)} unexpected, {len(misshaped)} of another shape"]
        lines += [f"  missing: {name}" for name in missing]
        lines += [f"  unexpected: {name}" for name in extra]
        lines += [f"  shape: {text}" for text in misshaped]
        raise ValueError("\n".join(lines))


def _read_index(folder: Path) -> dict[str, str]:
    """Tensor name -> shard, checked to be a plain file name."""
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{folder / INDEX}: weight_map must be an object of tensor names and file names")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.safetensors", shard) or shard.startswith("."):
            raise ValueError(
                f"{folder / INDEX}: {name} is said to lie in {shard!r}; expected the name of a .safetensors file in "
                "the same folder"
            )
        if not (folder / shard).is_file():
            raise ValueError(f"{folder / shard} is missing; {INDEX} names it")
    return weight_map


def read_file(file: Path) -> dict[str, Tensor]:
    """Every tensor of one safetensors file, memory-mapped.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error


def read_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says beside its tensors.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        with safe_open(file, framework="pt") as handle:
            return handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error


def _nothing_to_read(folder: Path) -> str:
    pickled = sorted({file.name for pattern in _PICKLED for file in folder.glob(pattern)})
    if pickled:
        return (
            f"{folder} holds pickled weights only ({', '.join(pickled[:5])}), which could run code when opened and are "
            f'never read. Where you trust them: `python -c "import torch, safetensors.torch as s; '
            f"s.save_file(torch.load('{folder / pickled[0]}', weights_only=True), '{folder / SINGLE}')\"`"
        )
    there = sorted(file.name for file in folder.iterdir())
    return f"{folder}: neither {SINGLE} nor {INDEX}; it holds: {', '.join(there[:10]) or 'nothing'}"


def as_float32(tensor: Tensor) -> Tensor:
    """For initialisation and training, which keep float32 weights."""
    return tensor.to(torch.float32)
