"""`Neo` -> a model folder in the released layout.

Out: `config.json`, `model.safetensors` (or shards with `model.safetensors.index.json`), the code with which
transformers loads it (`neo_lightning/hf`, named by `auto_map`) and, where given, the tokenizer's files. Everything is
written beside the folder first and moved in at the end, so a failed export leaves an older one as it was; weights of an
older export are removed with it.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from neo_lightning.checkpoint.commit import sync
from neo_lightning.checkpoint.names import EMBEDDINGS, HEAD, expected_shapes, without_tied_head
from neo_lightning.checkpoint.read import INDEX, SINGLE, check_tensors
from neo_lightning.hub import resolve_folder
from neo_lightning.model.config import NeoConfig
from neo_lightning.model.design.axes import Design
from neo_lightning.model.neo import Neo

CONFIG = "config.json"
CARD = "README.md"
CARD_MARK = ", trained with neo_lightning "
"""In every card that `report.card` writes."""
CODE = Path(__file__).parents[1] / "hf"
"""Read by its path: the code is for those who do not have this package."""
AUTO_MAP = {
    "AutoConfig": "configuration_neo_chat.NEOChatConfig",
    "AutoModel": "modeling_neo_chat.NEOChatModel",
    "AutoModelForImageTextToText": "modeling_neo_chat.NEOChatModel",
}
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def export_model(
    model: Neo | Mapping[str, Tensor],
    config: NeoConfig,
    folder: str | Path,
    tokenizer_dir: str | Path | None = None,
    *,
    files: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = 5 * 10**9,
) -> Path:
    """Write a model folder.

    Args:
        model: the model, or its tensors by name.
        config: of the model.
        folder: made if it is not there; an older export in it is replaced.
        tokenizer_dir: folder with the tokenizer's files (or `hf://owner/name`), copied where given.
        files: name -> text of more files, in place of the tokenizer's of that name.
        dtype: of the stored weights; None stores each as it is.
        shard_bytes: size of a file from which the weights are split.

    Returns:
        The folder.

    Raises:
        ValueError: tensors that do not fit the config (lists them), or a tokenizer folder without tokenizer files.
        OSError: the folder cannot be written; an older export in it is as it was.
    """
    tensors = dict(model.state_dict() if isinstance(model, Neo) else model)
    if config.tie_word_embeddings:
        tensors = without_tied_head(tensors, HEAD, EMBEDDINGS)
    expected = expected_shapes(config)
    check_tensors(tensors, expected, f"export to {folder}: the tensors do not fit the config")
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with beside(target) as written:
        _write_weights({name: tensors[name] for name in expected}, written, dtype, shard_bytes)
        released = config.to_dict()
        if config.design == Design():
            released["auto_map"] = AUTO_MAP
            for file in CODE.glob("*_neo_chat.py"):
                shutil.copyfile(file, written / file.name)
        else:
            warnings.warn(
                f"{folder}: exported without the code for transformers, which computes NEO-ov and not "
                f"model.design {config.design.to_dict()}; this package reads the folder",
                stacklevel=2,
            )
        (written / CONFIG).write_text(json.dumps(released, indent=2) + "\n", encoding="utf-8")
        if tokenizer_dir is not None:
            _copy_tokenizer(tokenizer_dir, written)
        for name, text in (files or {}).items():
            (written / name).write_text(text, encoding="utf-8")
        for file in written.iterdir():
            sync(file)
        for old in [
            target / CONFIG,
            *target.glob("*_neo_chat.py"),
            *target.glob("model*.safetensors"),
            target / INDEX,
            *_old_card(target),
        ]:
            old.unlink(missing_ok=True)
        # config.json comes last: where it is, the rest is there, whenever this was ended
        for file in sorted(written.iterdir(), key=lambda path: (path.name == CONFIG, path.name)):
            os.replace(file, target / file.name)
        sync(target)
    return target


def _old_card(target: Path) -> list[Path]:
    """The card that `model publish` wrote for the older weights, with their scores; nobody else's README."""
    card = target / CARD
    ours = card.is_file() and CARD_MARK in card.read_text(encoding="utf-8", errors="replace")
    return [card] if ours and (target / CONFIG).is_file() else []


@contextmanager
def beside(target: Path) -> Iterator[Path]:
    """An empty folder beside another, always of the same name: what a killed export left there goes with the next."""
    folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_weights(tensors: dict[str, Tensor], folder: Path, dtype: torch.dtype | None, shard_bytes: int) -> None:
    """One file, or as many as it takes to keep each at `shard_bytes` (a larger single tensor gets its own)."""
    shards: list[list[str]] = [[]]
    sizes = {name: t.numel() * (t.element_size() if dtype is None else dtype.itemsize) for name, t in tensors.items()}
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    count = len(shards)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, names in zip(files, shards, strict=True):
        stored = {n: tensors[n].detach().to("cpu", dtype or tensors[n].dtype).contiguous() for n in names}
        try:
            save_file(stored, folder / file, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(f"cannot write {folder / file}: {error}") from error
    if count > 1:
        weight_map = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _copy_tokenizer(source: str | Path, target: Path) -> None:
    make = "`neo-lightning data tokenizer --from QWEN3 --out FOLDER` makes a tokenizer"
    folder = resolve_folder(source, make, fetch=TOKENIZER_FILES)
    found = [name for name in TOKENIZER_FILES if (folder / name).is_file()]
    if "tokenizer.json" not in found:
        raise ValueError(f"{folder}: no tokenizer there (expected tokenizer.json); {make}")
    for name in found:
        shutil.copyfile(folder / name, target / name)
